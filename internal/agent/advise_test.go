package agent

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestPullNamesTheVariable: an answer that a wrong variable brings about names that variable, and
// keeps its kind.
func TestPullNamesTheVariable(t *testing.T) {
	t.Parallel()
	for advice, tt := range map[string]struct {
		status int
		body   string
		is     error
	}{
		": check SIKKER_API_KEY": {http.StatusUnauthorized, `{"error": "Invalid API key"}`, sikkerapi.ErrUnauthorized},
		": check SIKKER_API_URL": {http.StatusFound, "", sikkerapi.ErrRedirect},
	} {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}))
		t.Cleanup(api.Close)
		a, _ := logged(t, "SIKKER_API_URL="+api.URL)
		_, err := a.api.Blacklist(t.Context(), sikkerapi.BlacklistQuery{})
		if !errors.Is(err, tt.is) || !strings.HasSuffix(err.Error(), advice) {
			t.Errorf("got %v, want one that ends with %q", err, advice)
		}
	}
}
