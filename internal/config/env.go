package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// patroniSections are the settings that Patroni reads from PATRONI_SECTION_KEY
// (patroni/config.py, _build_environment_configuration).
var patroniSections = map[string]string{
	"restapi": "listen connect_address certfile keyfile keyfile_password cafile ciphers verify_client http_extra_headers" +
		" https_extra_headers allowlist allowlist_include_members request_queue_size server_tokens thread_pool_size",
	"ctl":        "insecure cacert certfile keyfile keyfile_password",
	"postgresql": "listen connect_address proxy_address config_dir data_dir pgpass bin_dir",
	"log": "type level traceback_level format dateformat static_fields max_queue_size dir mode file_size file_num" +
		" loggers deduplicate_heartbeat_logs",
	"etcd":  "host hosts url protocol srv srv_suffix proxy use_proxies cacert cert key username password",
	"etcd3": "host hosts url protocol srv srv_suffix proxy use_proxies cacert cert key username password",
	"citus": "group database",
}

const roleKeys = "username password sslmode sslcert sslkey sslpassword sslrootcert sslcrl sslcrldir gssencmode channel_binding sslnegotiation"

// patroniNames maps each PATRONI_ variable to the path of its setting.
func patroniNames() map[string]string {
	out := map[string]string{"PATRONI_SCOPE": "scope", "PATRONI_NAME": "name", "PATRONI_NAMESPACE": "namespace",
		"PATRONI_LOGLEVEL": "log.level", "PATRONI_LOGFORMAT": "log.format", "PATRONI_LOG_DATEFMT": "log.dateformat"}
	add := func(prefix, path, keys string) {
		for k := range strings.FieldsSeq(keys) {
			out["PATRONI_"+prefix+"_"+strings.ToUpper(k)] = path + "." + k
		}
	}
	for section, keys := range patroniSections {
		add(strings.ToUpper(section), section, keys)
	}
	for _, s := range []string{"ctl", "restapi"} {
		add(strings.ToUpper(s), s+".authentication", "username password")
	}
	for _, r := range []string{"superuser", "replication", "rewind"} {
		add(strings.ToUpper(r), "postgresql.authentication."+r, roleKeys)
	}
	add("POSTGRESQL_BIN", "postgresql.bin_name", "pg_ctl initdb pg_controldata pg_basebackup postgres pg_isready pg_rewind")
	// PATRONI_POSTGRESQL_BIN_IS_READY is a slip of Patroni's own documentation; the code reads PG_ISREADY.
	return out
}

// leaf is a setting that one environment variable can state.
type leaf struct {
	path string
	kind reflect.Kind
}

// leaves are all settings below t.
func leaves(t reflect.Type, path string) []leaf {
	var out []leaf
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || strings.HasPrefix(key, ",") {
			continue
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			out = append(out, leaves(ft, join(path, key))...)
			continue
		}
		out = append(out, leaf{join(path, key), ft.Kind()})
	}
	return out
}

// EnvName is the HATHI_ variable of the setting at path.
func EnvName(path string) string {
	return "HATHI_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// notSettings are variables with our prefix that mean something else: which file, which demo.
var notSettings = []string{"HATHI_CONFIG", "HATHI_DIR", "HATHI_TEST", "HATHI_DEMO", "HATHI_DEBUG"}

// overrides puts the environment into the tree. Empty variables count as absent, as in Patroni.
func overrides(root *node, env map[string]string) Problems {
	var problems Problems
	warn := func(path, hint, format string, args ...any) {
		problems = append(problems, Problem{Path: path, Severity: Warning, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	kinds := map[string]reflect.Kind{}
	hathi := map[string]string{}
	for _, l := range leaves(reflect.TypeFor[Config](), "") {
		kinds[l.path] = l.kind
		hathi[EnvName(l.path)] = l.path
	}
	patroni := patroniNames()
	stated := map[string]string{}
	for _, prefix := range []string{"PATRONI_", "HATHI_"} {
		names := patroni
		if prefix == "HATHI_" {
			names = hathi
		}
		for _, name := range sortedKeys(env) {
			text := env[name]
			if !strings.HasPrefix(name, prefix) || text == "" {
				continue
			}
			path, known := names[name]
			if !known {
				unknownVariable(name, sortedKeys(names), warn)
				continue
			}
			if other := stated[path]; other != "" && env[other] != text {
				warn(path, "unset one of them", "the environment variables %s and %s disagree; %s is used", other, name, name)
			}
			stated[path] = name
			k := kinds[path]
			if strings.HasPrefix(path, "postgresql.bin_name.") {
				k = reflect.String
			}
			root.set(strings.Split(path, "."), fromEnv(name, text, path, k, &problems))
		}
	}
	return problems
}

func unknownVariable(name string, known []string, warn func(path, hint, format string, args ...any)) {
	if name == "PATRONI_CONFIGURATION" || name == "PATRONICTL_CONFIG_FILE" || slices.ContainsFunc(notSettings, func(p string) bool {
		return name == p || strings.HasPrefix(name, p+"_")
	}) {
		return
	}
	hint := ""
	if near := nearest(name, lowerAll(known)); near != "" {
		hint = "did you mean " + strings.ToUpper(near) + "?"
	}
	warn("", hint, "the environment variable %s names no setting of hathi; it is ignored", name)
}

func lowerAll(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToLower(s)
	}
	return out
}

// fromEnv reads a variable's text the way Patroni does: lists and mappings are YAML with the outer
// brackets optional, all else is text.
func fromEnv(name, text, path string, k reflect.Kind, problems *Problems) *node {
	plain := &node{kind: scalar, text: text, tag: "!!str", env: name}
	t := strings.TrimSpace(text)
	switch {
	case k == reflect.Map && !strings.HasPrefix(t, "{"):
		t = "{" + t + "}"
	case k == reflect.Map:
	case k == reflect.Slice && !strings.HasPrefix(t, "-") && !strings.HasPrefix(t, "["):
		return plain // commas
	case k == reflect.Slice:
	default:
		return plain
	}
	root, found := parse([]byte("v: " + strings.ReplaceAll("\n"+t, "\n", "\n  ")))
	for _, p := range found {
		p.Path, p.Line, p.Message = path, 0, p.Message+" (from the environment variable "+name+")"
		*problems = append(*problems, p)
	}
	v := root.get("v")
	if v == nil {
		return &node{kind: null, env: name}
	}
	v.mark(name)
	return v
}

func (n *node) mark(env string) {
	n.env, n.line = env, 0
	for _, i := range n.items {
		i.mark(env)
	}
	for i := range n.fields {
		n.fields[i].line = 0
		n.fields[i].val.mark(env)
	}
}
