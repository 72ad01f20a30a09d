package etcd

import (
	"context"
	"errors"

	"github.com/hathi-ha/hathi/internal/dcs"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errDropped is raft.ErrProposalDropped, which etcd passes on without a code of its own: the member asked
// did not take the proposal up, because it knows no leader or is just handing leadership over. One that
// was passed on to a leader and dropped there is not answered at all.
var errDropped = status.Error(codes.Unknown, "raft proposal dropped")

// The errors with which a member says that a request was not carried out, checked against the
// source of etcd 3.4 to 3.7. Each is given before the request is proposed, or by the check before
// it is applied. Not among them, although they sound so:
//
//   - "request timed out" and "server stopped": given while the proposal is under way.
//   - "database space exceeded": the very request that fills the space is applied and gets it too
//     (quotaApplierV3).
//   - "leader changed": reads only, but nothing is gained by calling it sure.
var notApplied = []error{
	errDropped,
	rpctypes.ErrGRPCNoLeader, // the check that WithRequireLeader asks for comes before the handler
	rpctypes.ErrGRPCNotSupportedForLearner,
	rpctypes.ErrGRPCRequestTooManyRequests,
	rpctypes.ErrGRPCNotCapable,
	rpctypes.ErrGRPCEmptyKey,
	rpctypes.ErrGRPCTooManyOps,
	rpctypes.ErrGRPCDuplicateKey,
	rpctypes.ErrGRPCRequestTooLarge,
	rpctypes.ErrGRPCLeaseTTLTooLarge,
	rpctypes.ErrGRPCUserEmpty,
	rpctypes.ErrGRPCAuthFailed,
	rpctypes.ErrGRPCPermissionDenied,
	rpctypes.ErrGRPCInvalidAuthToken,
	rpctypes.ErrGRPCAuthOldRevision,
}

// elsewhere are those of them that another member may answer differently, now or in a moment.
var elsewhere = []error{
	errDropped,
	rpctypes.ErrGRPCNoLeader,
	rpctypes.ErrGRPCNotSupportedForLearner,
	rpctypes.ErrGRPCRequestTooManyRequests,
	rpctypes.ErrGRPCNotCapable,
}

// isOneOf compares code and text: gRPC carries no identity. The text is etcd's own constant.
func isOneOf(err error, list []error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	for _, known := range list {
		k, _ := status.FromError(known)
		if st.Code() == k.Code() && st.Message() == k.Message() {
			return true
		}
	}
	return false
}

func surelyNotApplied(err error) bool { return isOneOf(err, notApplied) }

// refused says whether the answer would be the same from every member at any time soon.
func refused(err error) bool {
	return surelyNotApplied(err) && !isOneOf(err, elsewhere)
}

// electing says that the member answers and its cluster chooses a leader: so do the others, and it is
// no worse than they are.
func electing(err error) bool {
	return isOneOf(err, []error{rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCTimeoutDueToLeaderFail})
}

func leaseGone(err error) bool {
	return errors.Is(err, dcs.ErrLeaseGone) || isOneOf(err, []error{rpctypes.ErrGRPCLeaseNotFound})
}

// plain strips gRPC's own wording from an error for the reader: the text of the status.
func plain(err error) error {
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return err
	}
	return &statusError{text: st.Message(), code: st.Code(), err: err}
}

// timedOut says whether the time was up, by either side's clock: the member gets the deadline too
// and may notice first.
func timedOut(err error) bool { return status.Code(err) == codes.DeadlineExceeded }

type statusError struct {
	text string
	code codes.Code
	err  error
}

func (e *statusError) Error() string { return e.text }
func (e *statusError) Unwrap() error { return e.err }

// Is lets callers ask for the errors of package context, which gRPC words as its own, and for a full
// store.
func (e *statusError) Is(target error) bool {
	return target == dcs.ErrFull && isOneOf(e.err, []error{rpctypes.ErrGRPCNoSpace}) ||
		target == context.DeadlineExceeded && e.code == codes.DeadlineExceeded ||
		target == context.Canceled && e.code == codes.Canceled
}
