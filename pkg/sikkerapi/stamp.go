package sikkerapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// maxUnixMilli is the end of the year 9999, the last that RFC 3339 can write.
const maxUnixMilli = 253402300799999

// stamp is a time on the wire: Unix milliseconds in blacklists, RFC 3339 in checks. Both forms are
// accepted in both places. null and the empty text are the zero time.
type stamp struct {
	time.Time
}

// UnmarshalJSON parses both forms.
func (s *stamp) UnmarshalJSON(raw []byte) error {
	s.Time = time.Time{}
	if string(raw) == "null" {
		return nil
	}
	if len(raw) == 0 || raw[0] != '"' {
		ms, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || ms < 0 || ms > maxUnixMilli {
			return fmt.Errorf("time %.60q is not in Unix milliseconds", raw)
		}
		s.Time = time.UnixMilli(ms).UTC()
		return nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	if text == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return fmt.Errorf("time %.60q is not in the format of RFC 3339", text)
	}
	if s.Time = t.UTC(); s.Year() < 0 || s.Year() > 9999 {
		return errors.New("time is out of range")
	}
	return nil
}
