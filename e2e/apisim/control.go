package apisim

import (
	"encoding/json"
	"io"
	"net/http"
)

// control answers /_sim/.
func (s *Sim) control(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "POST /_sim/fault":
		var f Fault
		dec := json.NewDecoder(io.LimitReader(r.Body, 1<<16))
		dec.DisallowUnknownFields()
		err := dec.Decode(&f)
		if err == nil {
			err = s.SetFault(f)
		}
		if err != nil {
			send(w, r, refuse(http.StatusBadRequest, err.Error()))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "DELETE /_sim/fault":
		s.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	case "GET /_sim/requests":
		send(w, r, reply(nil, s.Requests()))
	case "GET /_sim/reports":
		send(w, r, reply(nil, s.Reports()))
	default:
		send(w, r, refuse(http.StatusNotFound, "no such control"))
	}
}
