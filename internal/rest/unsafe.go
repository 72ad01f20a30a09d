package rest

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hathi-ha/hathi/internal/cluster"
)

// handler performs an unsafe request that may be performed.
type handler func(s *Server, ctx context.Context, q *request)

// unsafePaths are the unsafe requests by path and method.
var unsafePaths = map[string]map[string]handler{
	"/restart":      {http.MethodPost: postRestart, http.MethodDelete: deleteRestart},
	"/reload":       {http.MethodPost: postReload},
	"/reinitialize": {http.MethodPost: postReinitialize},
	"/switchover":   {http.MethodPost: postSwitchover, http.MethodDelete: deleteSwitchover},
	"/failover":     {http.MethodPost: postFailover},
	"/config":       {http.MethodPatch: patchConfig, http.MethodPut: putConfig},
	"/failsafe":     {http.MethodPost: postFailsafe},
	"/citus":        {http.MethodPost: postMPP},
	"/mpp":          {http.MethodPost: postMPP},
	"/sigterm":      {http.MethodPost: postSigterm},
}

func allowed(readable bool, act map[string]handler) string {
	methods := slices.Collect(maps.Keys(act))
	if readable {
		methods = append(methods, http.MethodGet, http.MethodHead, http.MethodOptions)
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

// act checks that an unsafe request may be performed and performs it, within bounds. It goes on
// when the asker hangs up: half a switchover helps nobody.
func (s *Server) act(q *request, path string, h handler) {
	members := q.snap.View.Members
	if ref := s.access.Load().allow(q.r, s.conf.VerifyClient, members, path == "/failsafe"); ref != nil {
		s.log.Warn("REST request refused", "method", q.r.Method, "path", path, "from", remoteIP(q.r).String(), "code", ref.code, "why", ref.text)
		// The body is not read: the connection ends instead of being drained for a stranger.
		q.w.Header().Set("Connection", "close")
		q.refuse(ref)
		return
	}
	if s.conf.Actions == nil {
		q.text(http.StatusServiceUnavailable, "this node takes no actions")
		return
	}
	if path != "/failsafe" { // a primary that asks for its life does not queue behind operators
		select {
		case s.actions <- struct{}{}:
			defer func() { <-s.actions }()
		default:
			q.text(http.StatusServiceUnavailable, "too many actions are under way; try again")
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.r.Context()), actionWait)
	defer cancel()
	stop := context.AfterFunc(s.base.life, cancel)
	defer stop()
	h(s, ctx, q)
}

func (q *request) answer(a Answer) {
	if a.Code == 0 {
		a = Answer{Code: http.StatusInternalServerError, Text: "the action ended without an answer"}
	}
	if a.Doc != nil {
		q.json(a.Code, a.Doc)
		return
	}
	q.text(a.Code, a.Text)
}

func (q *request) object(optional bool) (map[string]any, bool) {
	obj, ref := readObject(q.w, q.r, optional)
	if ref != nil {
		q.w.Header().Set("Connection", "close")
		q.refuse(ref)
		return nil, false
	}
	return obj, true
}

func (q *request) paused() bool { return q.snap.Status.Pause || q.snap.View.Config.Pause }

func postRestart(s *Server, ctx context.Context, q *request) {
	obj, ok := q.object(true)
	if !ok {
		return
	}
	r, ref := restartRequest(obj, q.paused(), s.conf.Wall())
	if ref != nil {
		q.refuse(ref)
		return
	}
	s.log.Info("restart requested", "from", remoteIP(q.r).String(), "schedule", r.Schedule, "role", r.Role, "pending", r.Pending)
	q.answer(s.conf.Actions.Restart(ctx, r))
}

func deleteRestart(s *Server, ctx context.Context, q *request) {
	q.answer(s.conf.Actions.CancelRestart(ctx))
}

func postReload(s *Server, ctx context.Context, q *request) { q.answer(s.conf.Actions.Reload(ctx)) }

func postReinitialize(s *Server, ctx context.Context, q *request) {
	obj, ok := q.object(true)
	if !ok {
		return
	}
	s.log.Info("reinitialize requested", "from", remoteIP(q.r).String())
	q.answer(s.conf.Actions.Reinitialize(ctx, ReinitializeRequest{Force: truth(obj["force"]), FromLeader: truth(obj["from_leader"])}))
}

func postSwitchover(s *Server, ctx context.Context, q *request) { s.failover(ctx, q, true) }
func postFailover(s *Server, ctx context.Context, q *request)   { s.failover(ctx, q, false) }

func (s *Server) failover(ctx context.Context, q *request, switchover bool) {
	obj, ok := q.object(false)
	if !ok {
		return
	}
	r, ref := failoverRequest(obj, switchover, q.paused(), s.conf.Wall())
	if ref != nil {
		q.refuse(ref)
		return
	}
	s.log.Info("fail-over requested", "from", remoteIP(q.r).String(), "switchover", r.Switchover, "leader", r.Leader,
		"candidate", r.Candidate, "scheduled_at", r.ScheduledAt, "force", r.Force)
	q.answer(s.conf.Actions.Failover(ctx, r))
}

func deleteSwitchover(s *Server, ctx context.Context, q *request) {
	q.answer(s.conf.Actions.CancelSwitchover(ctx))
}

func patchConfig(s *Server, ctx context.Context, q *request) {
	if obj, ok := s.checkedConfig(q); ok {
		q.answer(s.conf.Actions.PatchConfig(ctx, obj))
	}
}

func putConfig(s *Server, ctx context.Context, q *request) {
	if obj, ok := s.checkedConfig(q); ok {
		q.answer(s.conf.Actions.PutConfig(ctx, obj))
	}
}

func (s *Server) checkedConfig(q *request) (map[string]any, bool) {
	obj, ok := q.object(false)
	if !ok {
		return nil, false
	}
	if s.conf.CheckPatch != nil {
		if errs := s.conf.CheckPatch(obj); len(errs) > 0 {
			s.log.Warn("configuration change refused", "from", remoteIP(q.r).String(), "err", errors.Join(errs...))
			q.text(http.StatusBadRequest, "refused: "+errors.Join(errs...).Error())
			return nil, false
		}
	}
	s.log.Info("configuration change requested", "method", q.r.Method, "from", remoteIP(q.r).String(), "keys", slices.Sorted(maps.Keys(obj)))
	return obj, true
}

func postFailsafe(s *Server, ctx context.Context, q *request) { answerFailsafe(ctx, q, s.conf.Actions) }

func answerFailsafe(ctx context.Context, q *request, f Failsafer) {
	obj, ok := q.object(false)
	if !ok {
		return
	}
	r := FailsafeRequest{Slots: map[string]cluster.LSN{}}
	r.Name, _ = word(obj, "name")
	r.ConnURL, _ = obj["conn_url"].(string)
	r.APIURL, _ = obj["api_url"].(string)
	if slots, ok := obj["slots"].(map[string]any); ok {
		for name, at := range slots {
			if n, ok := whole(at); ok {
				r.Slots[name] = cluster.LSN(n)
			}
		}
	}
	r.Epoch, _ = whole(obj["epoch"])
	if ttl, ok := whole(obj["ttl_ms"]); ok && ttl <= 3600_000 {
		r.TTL = int64(ttl)
	}
	if r.Name == "" {
		q.text(http.StatusBadRequest, "Bad Request: the name of the asker is missing")
		return
	}
	a := f.Failsafe(ctx, r)
	switch {
	case a.Disabled:
		q.text(http.StatusBadGateway, "failsafe_mode is off")
	case !a.Accepted:
		q.text(http.StatusInternalServerError, a.Why)
	default:
		if a.LSN != 0 {
			q.w.Header().Set("lsn", strconv.FormatUint(uint64(a.LSN), 10))
		}
		q.text(http.StatusOK, accepted)
	}
}

const accepted = "Accepted"

func whole(v any) (uint64, bool) {
	n, ok := v.(interface{ String() string })
	if !ok {
		return 0, false
	}
	u, err := strconv.ParseUint(n.String(), 10, 64)
	return u, err == nil
}

func postMPP(s *Server, ctx context.Context, q *request) {
	if obj, ok := q.object(false); ok {
		q.answer(s.conf.Actions.MPP(ctx, obj))
	}
}

// postSigterm answers as Patroni does everywhere but in its own tests on Windows: it does nothing.
func postSigterm(_ *Server, _ context.Context, q *request) {
	q.text(http.StatusAccepted, "shutdown scheduled")
}
