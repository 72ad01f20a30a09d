package rest

import (
	"net/http"
	"time"
)

// Handler lets tests choose where a request comes from.
func Handler(s *Server) http.Handler { return http.HandlerFunc(s.serve) }

// ParseObject and ParseSchedule are parsers of bytes from outside, for the fuzz tests.
var ParseObject = parseObject

// ParseSchedule says whether the text was accepted.
func ParseSchedule(v string, now time.Time) (time.Time, bool) {
	at, ref := parseSchedule(v, "restart", now)
	return at, ref == nil
}
