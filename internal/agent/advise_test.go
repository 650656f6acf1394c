package agent

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestAnswersNameTheVariable checks that the error of an answer that a wrong variable causes names
// the variable and keeps its kind.
func TestAnswersNameTheVariable(t *testing.T) {
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
		client, err := sikkerapi.New("sk_test_unit", sikkerapi.WithBaseURL(api.URL))
		if err != nil {
			t.Fatal(err)
		}
		_, err = advisedAPI{client}.Blacklist(t.Context(), sikkerapi.BlacklistQuery{})
		if !errors.Is(err, tt.is) || !strings.HasSuffix(err.Error(), advice) {
			t.Errorf("got %v, want one that ends with %q", err, advice)
		}
	}
}
