package sikkerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// CheckResult is what is known about one address. The texts in it come from outside.
type CheckResult struct {
	IP              netip.Addr         `json:"ip"`
	Found           bool               `json:"found"` // whether it was ever seen; the rest is zero when it was not
	ConfidenceLevel int                `json:"confidenceLevel"`
	Geolocation     Geolocation        `json:"geolocation"`
	FirstSeen       time.Time          `json:"firstSeen,omitzero"`
	LastSeen        time.Time          `json:"lastSeen,omitzero"`
	TotalSessions   int64              `json:"totalSessions"`
	TotalEvents     int64              `json:"totalEvents"`
	Protocols       []ProtocolActivity `json:"protocols"`
	Behaviors       []Behavior         `json:"behaviors"`
	Quota           Quota              `json:"-"`
}

// Geolocation is where an address is, and whose.
type Geolocation struct {
	CountryCode string `json:"countryCode"`
	CountryName string `json:"countryName"`
	City        string `json:"city"`
	ASN         string `json:"asn"` // like "AS64500"
	ASNOrg      string `json:"asnOrg"`
	IsTor       bool   `json:"isTor"`
	IsProxy     bool   `json:"isProxy"`
}

// ProtocolActivity is what an address did on one protocol.
type ProtocolActivity struct {
	Protocol string `json:"protocol"`
	Sessions int64  `json:"sessions"`
	Events   int64  `json:"events"`
}

// Behavior is something an address was seen doing.
type Behavior struct {
	Name        string   `json:"name"`
	Severity    Severity `json:"severity"` // unchecked
	Count       int64    `json:"count"`
	Description string   `json:"description"` // often empty
}

// Check asks about one address. It takes one lookup of the quota.
func (c *Client) Check(ctx context.Context, addr netip.Addr) (CheckResult, error) {
	if !addr.IsValid() || addr.Zone() != "" {
		return CheckResult{}, fmt.Errorf("check address: %q is invalid or has a zone", addr)
	}
	addr = addr.Unmap()
	var res CheckResult
	r := request{method: http.MethodGet, path: "/v1/key/check/" + addr.String()}
	err := c.smallCall(ctx, r, func(raw []byte, q Quota) (err error) {
		res, err = decodeCheck(raw)
		res.Quota = q
		if err == nil && res.IP != addr {
			return fmt.Errorf("it is about %s", res.IP)
		}
		return err
	})
	if err != nil {
		return CheckResult{}, err
	}
	return res, nil
}

// decodeCheck reads the wire form, whose times may be null.
func decodeCheck(raw []byte) (CheckResult, error) {
	var wire struct {
		CheckResult

		FirstSeen stamp `json:"firstSeen"`
		LastSeen  stamp `json:"lastSeen"`
	}
	if err := json.Unmarshal(raw, &wire); err != nil {
		return CheckResult{}, err
	}
	if !wire.IP.IsValid() {
		return CheckResult{}, errors.New("it names no address: no check")
	}
	res := wire.CheckResult
	res.IP, res.FirstSeen, res.LastSeen = res.IP.Unmap(), wire.FirstSeen.Time, wire.LastSeen.Time
	return res, nil
}

// Status is the state of the account the key belongs to.
type Status struct {
	Tier   Tier   `json:"tier"`
	Quotas Quotas `json:"quotas"`
	Alerts Alerts `json:"alerts"`
}

// Tier is what was subscribed to.
type Tier struct {
	ID   string `json:"id"`   // like "free"
	Name string `json:"name"` // for people
}

// Quotas are the daily quotas of the endpoints.
type Quotas struct {
	Lookups   Usage `json:"lookups"`
	Reports   Usage `json:"reports"`
	Blacklist Usage `json:"blacklist"`
	TAXII     Usage `json:"taxii"`
}

// Usage is one quota, in requests or reports a day.
type Usage struct {
	Used      int `json:"used"`
	Limit     int `json:"limit"`
	Remaining int `json:"remaining"`
}

// Alerts are the alerts of the account.
type Alerts struct {
	IPAlerts AlertUsage `json:"ipAlerts"`
}

// AlertUsage is how many alerts there are, and may be.
type AlertUsage struct {
	Current int `json:"current"`
	Limit   int `json:"limit"`
}

// Status asks for the state of the account.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var res Status
	r := request{method: http.MethodGet, path: "/v1/key/status"}
	err := c.smallCall(ctx, r, func(raw []byte, _ Quota) (err error) {
		res, err = decodeStatus(raw)
		return err
	})
	if err != nil {
		return Status{}, err
	}
	return res, nil
}

func decodeStatus(raw []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(raw, &s); err != nil {
		return Status{}, err
	}
	if s.Tier.ID == "" {
		return Status{}, errors.New("it names no tier: no status")
	}
	return s, nil
}
