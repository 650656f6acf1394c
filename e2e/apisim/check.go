package apisim

import (
	"net/http"
	"net/netip"
	"time"
)

// check answers GET /v1/key/check/{ip} from the list.
func (s *Sim) check(ip string) answer {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Zone() != "" {
		return refuse(http.StatusBadRequest, "invalid address")
	}
	all, err := s.list()
	if err != nil {
		return refuse(http.StatusInternalServerError, err.Error())
	}
	n, h := s.take(lookups, 1)
	if n == 0 {
		return s.spent(h)
	}
	for _, e := range all { // the highest score comes first
		if e.prefix.IsValid() && e.prefix.Contains(a.Unmap()) {
			return reply(h, s.found(a, e.score))
		}
	}
	return reply(h, map[string]any{
		"ip": a.String(), "found": false, "confidenceLevel": 0, "geolocation": nil, "firstSeen": nil, "lastSeen": nil,
		"totalSessions": 0, "totalEvents": 0, "protocols": []any{}, "behaviors": []any{},
	})
}

// found returns the information about a listed address: the example of the documentation.
func (s *Sim) found(a netip.Addr, score int) any {
	return map[string]any{
		"ip": a.String(), "found": true, "confidenceLevel": score,
		"geolocation": map[string]any{
			"countryCode": "NL", "countryName": "Netherlands", "city": "Amsterdam", "asn": "AS64500",
			"asnOrg": "Example BV", "isTor": false, "isProxy": false,
		},
		"firstSeen": "2026-01-02T03:04:05Z", "lastSeen": s.o.Now().UTC().Format(time.RFC3339),
		"totalSessions": 412, "totalEvents": 9001,
		"protocols": []any{map[string]any{"protocol": "ssh", "sessions": 400, "events": 8000}},
		"behaviors": []any{map[string]any{
			"name": "credential_stuffing", "severity": "high", "count": 12, "description": nil,
		}},
	}
}

// status answers GET /v1/key/status, which has no quota.
func (s *Sim) status(*http.Request) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newDay()
	quotas := map[quotaName]any{}
	for name, limit := range s.tier.quotas {
		quotas[name] = map[string]int{"used": s.used[name], "limit": limit, "remaining": limit - s.used[name]}
	}
	return reply(nil, map[string]any{
		"tier":   map[string]string{"id": s.tier.id, "name": s.tier.name},
		"quotas": quotas,
		"alerts": map[string]any{"ipAlerts": map[string]int{"current": 0, "limit": 5}},
	})
}
