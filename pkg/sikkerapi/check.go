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

// CheckResult is the information about one address. Its texts come from outside.
type CheckResult struct {
	IP              netip.Addr         `json:"ip"`
	Found           bool               `json:"found"` // the address is known; if not, all other fields are zero
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

// Geolocation is the location and the owner of an address.
type Geolocation struct {
	CountryCode string `json:"countryCode"`
	CountryName string `json:"countryName"`
	City        string `json:"city"`
	ASN         string `json:"asn"` // like "AS64500"
	ASNOrg      string `json:"asnOrg"`
	IsTor       bool   `json:"isTor"`
	IsProxy     bool   `json:"isProxy"`
}

// ProtocolActivity is the activity of an address on one protocol.
type ProtocolActivity struct {
	Protocol string `json:"protocol"`
	Sessions int64  `json:"sessions"`
	Events   int64  `json:"events"`
}

// Behavior is one observed behaviour of an address.
type Behavior struct {
	Name        string   `json:"name"`
	Severity    Severity `json:"severity"` // unchecked
	Count       int64    `json:"count"`
	Description string   `json:"description"` // often empty
}

// Check returns the information about one address. It uses one lookup of the quota.
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

// decodeCheck decodes the wire form, whose times may be null.
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
		return CheckResult{}, errors.New("it has no address")
	}
	res := wire.CheckResult
	res.IP, res.FirstSeen, res.LastSeen = res.IP.Unmap(), wire.FirstSeen.Time, wire.LastSeen.Time
	return res, nil
}

// Status is the state of the account of the key.
type Status struct {
	Tier   Tier   `json:"tier"`
	Quotas Quotas `json:"quotas"`
	Alerts Alerts `json:"alerts"`
}

// Tier is the subscription.
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

// Usage is one quota, in requests or reports per day.
type Usage struct {
	Used      int `json:"used"`
	Limit     int `json:"limit"`
	Remaining int `json:"remaining"`
}

// Alerts are the alerts of the account.
type Alerts struct {
	IPAlerts AlertUsage `json:"ipAlerts"`
}

// AlertUsage is the number of alerts and its limit.
type AlertUsage struct {
	Current int `json:"current"`
	Limit   int `json:"limit"`
}

// Status returns the state of the account.
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
		return Status{}, errors.New("it has no tier")
	}
	return s, nil
}
