//go:build e2e_docker

package docker

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/e2e/debian"
)

const (
	suite     = "trixie"
	baseImage = "debian:trixie-slim"
	goImage   = "golang:1.26-trixie"
	// standIn is the label of an image that was made here; its value names the sources.
	standIn = "sikkerguard.e2e.stand-in"
	// goParts are the parts of the toolchain in the Go image: those that build, and the licence.
	goParts = "VERSION go.env bin lib pkg src LICENSE PATENTS"
)

// baseImages makes the base images of the Dockerfile from Debian's packages and the Go toolchain of
// this machine: no test depends on a registry. They stay in the data root.
func (e *engine) baseImages(t *testing.T) {
	t.Helper()
	want := suite + " " + runtime.Version() + " " + goParts
	have, err := e.try("image", "inspect", "-f", `{{index .Config.Labels "`+standIn+`"}}`, baseImage, goImage)
	if err == nil && have == want+"\n"+want+"\n" {
		return
	}
	root, err := os.MkdirTemp(filepath.Dir(dataRoot), ".debootstrap-") //nolint:usetesting // /tmp may forbid devices
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := debian.Remove(root); err != nil {
			t.Errorf("remove %s: %v", root, err)
		}
	})
	installDebian(t, root)
	e.importImage(t, root, baseImage, "LABEL "+standIn+`="`+want+`"`)

	goRoot := strings.TrimSpace(e.must(t, "go", "env", "GOROOT"))
	e.must(t, "mkdir", "-p", root+"/usr/local/go", root+"/etc/ssl/certs")
	for part := range strings.FieldsSeq(goParts) {
		e.must(t, "cp", "-a", filepath.Join(goRoot, part), root+"/usr/local/go/")
	}
	// The build trusts the same certificates as this machine: there may be a proxy between it and
	// Go's modules.
	e.must(t, "cp", "-L", "/etc/ssl/certs/ca-certificates.crt", root+"/etc/ssl/certs/")
	e.importImage(t, root, goImage, "LABEL "+standIn+`="`+want+`"`, "ENV GOTOOLCHAIN=local",
		"ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// importImage makes an image of the files under root.
func (e *engine) importImage(t *testing.T, root, name string, changes ...string) {
	t.Helper()
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	archive := exec.CommandContext(interrupted, "tar", "-C", root, "-c", ".")
	all := e.within(append([]string{"docker"}, append(args, "-", name)...)...)
	load := exec.CommandContext(interrupted, all[0], all[1:]...)
	load.Env = e.env
	var err error
	if load.Stdin, err = archive.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := archive.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := output(load); err != nil {
		t.Error(err)
	}
	if err := archive.Wait(); err != nil || t.Failed() {
		t.Fatalf("import %s: %v", name, err)
	}
}

// sources copies the sources of the image into the project.
func (w *world) sources(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"Dockerfile", ".dockerignore", "LICENSE", "go.mod", "go.sum", "cmd", "internal", "pkg", "deploy",
	} {
		w.must(t, "cp", "-r", "../../"+name, w.dir)
	}
	w.env = append(w.env, "COMMIT=0123456789ab")
}

// build has Compose build the image from the repository. A second Compose file sets the network of
// the build, because the namespace has no way out.
func (w *world) build(t *testing.T, version string) {
	t.Helper()
	w.baseImages(t)
	network := filepath.Join(w.dir, "network.yaml")
	if err := os.WriteFile(network, []byte("services: {sikkerguard: {build: {network: host}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := wayOut(t, w.host)
	build := slices.Concat(w.within(w.client...), []string{
		"-f", filepath.Join(w.dir, "compose.yaml"), "-f", network, "build",
		"--build-arg", "VERSION=" + version, "--build-arg", "http_proxy=" + proxy, "--build-arg",
		"https_proxy=" + proxy,
	})
	w.must(t, build[0], build[1:]...)
}

// builtImages returns the file in which one test leaves the images for the next.
func builtImages() string { return filepath.Join(shared, "images.tar") }

// leaveImages leaves the images for the next test: building them takes longer than everything else.
func (w *world) leaveImages(t *testing.T) {
	t.Helper()
	save := w.within("docker", "save", "-o", builtImages(), image, baseImage)
	w.must(t, save[0], save[1:]...)
}

// loadOrBuild loads the images that an earlier test left, or builds them if there are none.
func (w *world) loadOrBuild(t *testing.T, version string) {
	t.Helper()
	if _, err := os.Stat(builtImages()); err != nil {
		w.build(t, version)
		return
	}
	load := w.within("docker", "load", "-i", builtImages())
	w.must(t, load[0], load[1:]...)
}

// must runs a command that may take long and returns its output.
func (e *engine) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := e.command(interrupted, buildPatience, name, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out[max(0, len(out)-4000):])
	}
	return out
}

// output runs cmd and returns its stdout; the error has its stderr.
func output(cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.String(), err
}
