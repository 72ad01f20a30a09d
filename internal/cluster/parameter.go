package cluster

import (
	"fmt"
	"strings"
)

// controlled are the PostgreSQL parameters that hathi sets itself on every node, with the reason.
// A value that a user states for one of them is ignored (the first four as in Patroni,
// CMDLINE_OPTIONS in patroni/postgresql/config.py).
var controlled = map[string]string{
	"listen_addresses":          "it comes from postgresql.listen",
	"port":                      "it comes from postgresql.listen",
	"cluster_name":              "it is the scope",
	"hot_standby":               "it is always on, a standby must answer health checks",
	"data_directory":            "it is postgresql.data_dir",
	"config_file":               "hathi writes postgresql.conf in the data directory or postgresql.config_dir",
	"hba_file":                  "hathi writes pg_hba.conf from postgresql.pg_hba",
	"ident_file":                "hathi writes pg_ident.conf from postgresql.pg_ident",
	"primary_conninfo":          "hathi points standbys at the primary",
	"primary_slot_name":         "hathi names the slot of each standby",
	"synchronous_standby_names": "it follows synchronous_mode and the key sync of the store",
	"promote_trigger_file":      "only the holder of the lock may promote",
	"standby_mode":              "hathi decides who is a standby",
	"trigger_file":              "only the holder of the lock may promote",
	"recovery_target":           "it would stop a standby from following",
	"recovery_target_action":    "it would stop a standby from following",
	"recovery_target_inclusive": "it would stop a standby from following",
	"recovery_target_lsn":       "it would stop a standby from following",
	"recovery_target_name":      "it would stop a standby from following",
	"recovery_target_time":      "it would stop a standby from following",
	"recovery_target_xid":       "it would stop a standby from following",
	"recovery_target_timeline":  "it is always latest, so that standbys follow a promotion",
}

// ControlledParameter says whether hathi sets the parameter itself, and why a user's value is
// ignored. Case does not matter.
func ControlledParameter(name string) (why string, ok bool) {
	why, ok = controlled[strings.ToLower(name)]
	return why, ok
}

// CheckParameter says whether name and value can stand in postgresql.conf: a name of lower-case
// letters, digits and underscores with at most one dot (an extension's parameter), up to 63 bytes
// for each part, and a value without line breaks and NUL.
func CheckParameter(name, value string) error {
	parts := strings.Split(name, ".")
	if len(parts) > 2 {
		return fmt.Errorf("parameter name %q: want at most one dot", name)
	}
	for _, p := range parts {
		if p == "" || len(p) > 63 {
			return fmt.Errorf("parameter name %q: want 1 to 63 bytes on each side of the dot", name)
		}
		for i, r := range p {
			if r >= 'a' && r <= 'z' || r == '_' || i > 0 && r >= '0' && r <= '9' {
				continue
			}
			return fmt.Errorf("parameter name %q: character %q; want lower-case letters, digits and underscores", name, r)
		}
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return fmt.Errorf("parameter %s: the value contains a line break or NUL", name)
	}
	return nil
}
