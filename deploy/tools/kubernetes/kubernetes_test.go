// Package kubernetes checks deploy/kubernetes against the types of the Kubernetes API, without a
// cluster.
package kubernetes

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const root = "../../.."

// cluster is the objects that kustomize generates.
type cluster struct {
	namespace *corev1.Namespace
	daemonSet *appsv1.DaemonSet
	secret    *corev1.Secret
	configMap *corev1.ConfigMap
	quota     *corev1.ResourceQuota
}

// build runs kustomize on a copy with a key, changed by edit, and decodes the output strictly.
func build(t *testing.T, edit func(name, text string) string) (c cluster, err error) {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(filepath.Join(root, "deploy/kubernetes"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"api_key": "sk_test_kubernetes\n"}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".yaml" {
			raw, err := os.ReadFile(filepath.Join(root, "deploy/kubernetes", e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = edit(e.Name(), string(raw))
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return c, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, r := range resources.Resources() {
		raw, err := r.AsYAML()
		if err != nil {
			return c, err
		}
		object, _, err := decoder.Decode(raw, nil, nil)
		if err != nil {
			return c, err
		}
		switch o := object.(type) {
		case *corev1.Namespace:
			c.namespace = o
		case *appsv1.DaemonSet:
			c.daemonSet = o
		case *corev1.Secret:
			c.secret = o
		case *corev1.ConfigMap:
			c.configMap = o
		case *corev1.ResourceQuota:
			c.quota = o
		default:
			t.Errorf("unexpected %T", o)
		}
	}
	return c, nil
}

func unchanged(_, text string) string { return text }

func TestManifests(t *testing.T) {
	t.Parallel()
	c, err := build(t, unchanged)
	if err != nil {
		t.Fatal(err)
	}
	if c.namespace == nil || c.daemonSet == nil || c.secret == nil || c.configMap == nil || c.quota == nil {
		t.Fatalf("an object is missing: %+v", c)
	}
	for _, ns := range []string{c.daemonSet.Namespace, c.secret.Namespace, c.configMap.Namespace, c.quota.Namespace} {
		if ns != c.namespace.Name {
			t.Errorf("namespace %q, want %q", ns, c.namespace.Name)
		}
	}
	spec := c.daemonSet.Spec.Template.Spec
	if s := c.quota.Spec.ScopeSelector; s == nil || len(s.MatchExpressions) != 1 ||
		!slices.Equal(s.MatchExpressions[0].Values, []string{spec.PriorityClassName}) {
		t.Errorf("the quota does not admit priority class %s: %+v", spec.PriorityClassName, s)
	}
	for k, v := range c.daemonSet.Spec.Selector.MatchLabels {
		if c.daemonSet.Spec.Template.Labels[k] != v {
			t.Errorf("the selector's %s=%s selects no pod", k, v)
		}
	}
	if !spec.HostNetwork || spec.DNSPolicy != corev1.DNSDefault || *spec.EnableServiceLinks ||
		*spec.AutomountServiceAccountToken {
		t.Error("the network settings of the pod are wrong")
	}
	if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, spec.Tolerations); diff != "" {
		t.Errorf("tolerations (-want +got):\n%s", diff)
	}
	box := spec.Containers[0]
	if limit := box.Resources.Limits.Memory(); limit.Cmp(resource.MustParse("512Mi")) < 0 {
		t.Errorf("memory limit %v does not fit the exchange of 500,000 entries", limit)
	}
	if want := "sikkerguard:" + version(t); box.Image != want {
		t.Errorf("image %q, want %q", box.Image, want)
	}
	if !strings.HasPrefix(string(c.secret.Data["api_key"]), "sk_test_") {
		t.Error("the secret does not hold the key")
	}
	checkMounts(t, c, spec, box)
	checkSecurity(t, *box.SecurityContext)
	checkProbes(t, box)
}

// checkProbes checks that both probes use the control socket, and that the liveness probe does not
// depend on the health. Neither gives up before `sikkerguard healthcheck` does, after five seconds.
func checkProbes(t *testing.T, box corev1.Container) {
	t.Helper()
	for _, tt := range []struct {
		probe *corev1.Probe
		want  []string
	}{
		{box.ReadinessProbe, []string{"/usr/local/bin/sikkerguard", "healthcheck"}},
		{box.LivenessProbe, []string{"/usr/local/bin/sikkerguard", "healthcheck", "--alive"}},
	} {
		if tt.probe.Exec == nil || !slices.Equal(tt.probe.Exec.Command, tt.want) || tt.probe.TimeoutSeconds <= 5 {
			t.Errorf("a probe is %+v, want more than five seconds for %q", tt.probe, tt.want)
		}
	}
}

// checkMounts checks that every volume is mounted, that every mounted volume exists, and that the
// key is at the path the agent reads.
func checkMounts(t *testing.T, c cluster, spec corev1.PodSpec, box corev1.Container) {
	t.Helper()
	var volumes, mounts []string
	paths := map[string]string{}
	for _, v := range spec.Volumes {
		volumes = append(volumes, v.Name)
		if s := v.Secret; s != nil && (s.SecretName != c.secret.Name || *s.DefaultMode != 0o400) {
			t.Errorf("secret %q with mode %o, want %q with mode 400", s.SecretName, *s.DefaultMode, c.secret.Name)
		}
	}
	for _, m := range box.VolumeMounts {
		mounts = append(mounts, m.Name)
		paths[m.Name] = m.MountPath
	}
	slices.Sort(volumes)
	slices.Sort(mounts)
	if diff := cmp.Diff(volumes, mounts); diff != "" {
		t.Errorf("volumes and mounts (-volumes +mounts):\n%s", diff)
	}
	if box.EnvFrom[0].ConfigMapRef.Name != c.configMap.Name {
		t.Errorf("config map %q, want %q", box.EnvFrom[0].ConfigMapRef.Name, c.configMap.Name)
	}
	reference, err := os.ReadFile(filepath.Join(root, "docs/configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range box.Env {
		names = append(names, e.Name)
		if e.Name == "SIKKER_API_KEY_FILE" && e.Value != paths["key"]+"/api_key" {
			t.Errorf("the agent reads the key at %q", e.Value)
		}
	}
	for name := range c.configMap.Data {
		names = append(names, name)
	}
	for _, name := range names {
		if !strings.Contains(string(reference), "| `"+name+"` |") {
			t.Errorf("the agent does not know %s", name)
		}
	}
}

func checkSecurity(t *testing.T, s corev1.SecurityContext) {
	t.Helper()
	no, yes, rootUser := false, true, int64(0)
	want := corev1.SecurityContext{
		RunAsUser: &rootUser, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities: &corev1.Capabilities{
			Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"},
		},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("security context (-want +got):\n%s", diff)
	}
}

// TestStrict checks that a typing error in a name, kind or value of a field is refused.
func TestStrict(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, file, old, new string }{
		{"bad field", "daemonset.yaml", "hostNetwork: true", "hostNetworks: true"},
		{"bad nested field", "daemonset.yaml", "readOnlyRootFilesystem", "readOnlyRootFileSystem"},
		{"bad type", "daemonset.yaml", "hostNetwork: true", "hostNetwork: always"},
		{"bad kind", "daemonset.yaml", "kind: DaemonSet", "kind: DemonSet"},
		{"bad version", "daemonset.yaml", "apiVersion: apps/v1", "apiVersion: apps/v2"},
		{"bad quantity", "daemonset.yaml", "memory: 768Mi", "memory: 768Megs"},
		{"bad kustomization", "kustomization.yaml", "secretGenerator:", "secretsGenerator:"},
		{"bad resource", "kustomization.yaml", "- daemonset.yaml", "- demonset.yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := build(t, func(name, text string) string {
				if name != tt.file {
					return text
				}
				if !strings.Contains(text, tt.old) {
					t.Fatalf("%s has no %q", name, tt.old)
				}
				return strings.Replace(text, tt.old, tt.new, 1)
			})
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}

// version returns the version in the Makefile.
func version(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^VERSION \?= (\S+)$`).FindSubmatch(raw)
	if m == nil {
		t.Fatal("the Makefile has no VERSION")
	}
	return string(m[1])
}
