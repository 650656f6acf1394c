package apisim

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
)

// answer is an answer before it is sent.
type answer struct {
	status int
	header http.Header // may be nil; without the headers of the content
	kind   string      // content type
	body   []byte
}

// reply returns an answer with JSON.
func reply(h http.Header, v any) answer {
	raw, err := json.Marshal(v)
	if err != nil {
		return refuse(http.StatusInternalServerError, fmt.Sprintf("encode answer: %v", err))
	}
	return answer{status: http.StatusOK, header: h, kind: "application/json", body: raw}
}

// refuse returns an answer with an error.
func refuse(status int, text string) answer {
	raw, _ := json.Marshal(map[string]string{"error": text}) // strings always encode
	return answer{status: status, kind: "application/json", body: raw}
}

// statusWriter calls status when the status is written.
type statusWriter struct {
	http.ResponseWriter

	status func(int)
}

func (w *statusWriter) WriteHeader(status int) {
	w.status(status)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap returns the writer below for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// send writes an answer.
func send(w http.ResponseWriter, r *http.Request, a answer) {
	body := prepare(w, r, a)
	_, _ = w.Write(body) // a client that has gone needs no answer
}

// prepare writes the header of an answer, with the length of the whole body, and returns that body.
// It is compressed if the client accepts that.
func prepare(w http.ResponseWriter, r *http.Request, a answer) []byte {
	h := w.Header()
	maps.Copy(h, a.header)
	h.Set("Content-Type", a.kind)
	h.Set("Vary", "Accept-Encoding")
	body := a.body
	if h.Get("Content-Encoding") == "" && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = compress(body)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	return body
}

// acceptsGzip reports whether Accept-Encoding contains gzip. It ignores that q=0 forbids it: no
// client here sends that.
func acceptsGzip(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept-Encoding"), "gzip")
}

func compress(raw []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(raw) // a buffer accepts every write
	_ = z.Close()
	return buf.Bytes()
}
