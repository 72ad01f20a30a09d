package pgconf

import (
	"strconv"
	"strings"
	"time"
)

// Conninfo is how a standby connects to the server that it follows. It holds no password: the
// password file does, so that none stands in postgresql.conf.
type Conninfo struct {
	Host string
	Port int
	User string
	// ApplicationName is the node's name: synchronous_standby_names goes by it.
	ApplicationName string
	PassFile        string
	// Database is for slot synchronization (PostgreSQL 17); "" for none.
	Database                                      string
	SSLMode, SSLCert, SSLKey, SSLRootCert, SSLCRL string
	SSLCRLDir, SSLNegotiation                     string
	GSSEncMode, ChannelBinding                    string
	// Timeout is after how long a silent peer is given up: connect_timeout, keepalives and
	// tcp_user_timeout follow from it. Zero leaves libpq's own.
	Timeout time.Duration
}

// String is libpq's keyword form, each value in quotes, empty ones left out.
func (c Conninfo) String() string {
	var b strings.Builder
	add := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'")
	}
	port := ""
	if c.Port > 0 {
		port = strconv.Itoa(c.Port)
	}
	for _, kv := range [][2]string{{"host", c.Host}, {"port", port}, {"user", c.User}, {"dbname", c.Database}, {"passfile", c.PassFile},
		{"application_name", c.ApplicationName}, {"sslmode", c.SSLMode}, {"sslcert", c.SSLCert}, {"sslkey", c.SSLKey},
		{"sslrootcert", c.SSLRootCert}, {"sslcrl", c.SSLCRL}, {"sslcrldir", c.SSLCRLDir}, {"sslnegotiation", c.SSLNegotiation},
		{"gssencmode", c.GSSEncMode}, {"channel_binding", c.ChannelBinding}} {
		add(kv[0], kv[1])
	}
	if c.Timeout > 0 {
		seconds := int((c.Timeout + time.Second - 1) / time.Second)
		add("connect_timeout", strconv.Itoa(max(seconds/2, 2))) // libpq takes 1 for 2
		add("keepalives_idle", strconv.Itoa(max(seconds/3, 1)))
		add("keepalives_interval", strconv.Itoa(max(seconds/5, 1)))
		add("keepalives_count", "3")
		add("tcp_user_timeout", strconv.FormatInt(max(c.Timeout, time.Second).Milliseconds(), 10))
	}
	return b.String()
}
