package etcd

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// While the members choose a leader, each of them says so; to leave one's own aside for that would send
// the next request to one that may be the reason.
func TestEndpoint_AnElectionIsNobodysFault(t *testing.T) {
	for _, err := range []error{rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCTimeoutDueToLeaderFail} {
		e := &endpoint{store: &Store{config: Config{Logger: slog.New(slog.DiscardHandler)}}}
		e.failed(plain(err))
		if suspect, _ := e.standing(); suspect {
			t.Errorf("%v: got a suspect endpoint at once", err)
		}
		// One that says so for longer is cut off from the others.
		e.electingSince = time.Now().Add(-electionGrace - time.Second)
		e.failed(plain(err))
		if suspect, _ := e.standing(); !suspect {
			t.Errorf("%v: got an endpoint without suspicion after %v", err, electionGrace)
		}
	}
	e := &endpoint{store: &Store{config: Config{Logger: slog.New(slog.DiscardHandler)}}}
	e.failed(errors.New("connection reset"))
	if suspect, _ := e.standing(); !suspect {
		t.Error("got no suspicion after another failure")
	}
}
