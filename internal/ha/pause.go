package ha

// paused: a human is in charge. Nothing is started, stopped, promoted or demoted except on request.
func (d *decider) paused() Decision {
	const why = "the cluster is paused"
	vouch := d.settings().TTL
	if d.Lease.Held {
		if d.DB.Phase == Up && d.DB.Primary {
			return d.pausedLeader(why)
		}
		switch {
		case d.Request.Restart || d.m.StopFor == StopRestart && d.DB.Phase == Down:
			return d.pausedRestart()
		case d.DB.Phase == Down && d.DB.Dir == DirValid && !d.DB.Torn && d.m.StopFor == StopHandover:
			return d.leadDown()
		case d.DB.Phase == Up:
			return d.lead() // on the way to lead, for a switchover asked for during the pause
		}
		return Decision{State: StatePaused, Why: why, Vouch: vouch, Wait: idle}
	}

	lead := d.upstreamLeader()
	if d.Request.Restart || d.m.StopFor == StopRestart && d.DB.Phase == Down {
		return d.pausedRestart()
	}
	if lead != "" && d.DB.Phase == Down {
		switch {
		case d.DB.Dir == DirEmpty, d.m.StopFor == StopReinit, d.m.StopFor == StopHandover, d.m.Copied:
			return d.follow(lead)
		}
	}
	if d.Request.Reinit && lead != "" && (d.DB.Dir == DirValid || d.DB.Phase == Down) {
		return d.follow(lead)
	}
	l := d.Store.View.Lock
	if d.Store.Reachable && d.DB.Phase == Up && !d.DB.Primary && d.leader() == "" && (l.Clean() && l.Successor == d.Self.Name || d.forced()) {
		// A switchover was asked for during the pause and the former leader has stopped for it, or
		// an operator orders this node to lead.
		return d.candidate()
	}
	_, known := d.Store.View.Member(d.upstream(lead))
	if d.DB.Phase == Up && !d.DB.Primary && lead != "" && d.DB.Upstream != d.upstream(lead) && (known || d.upstream(lead) == "") {
		return d.act(StatePaused, 0, soon, why+"; the leader changed", Follow{Upstream: d.upstream(lead)})
	}
	return d.wait(StatePaused, idle, why)
}

// pausedLeader: the leader with a running PostgreSQL.
func (d *decider) pausedLeader(why string) Decision {
	vouch := d.settings().TTL
	switch {
	case !d.Store.View.Lock.Paused:
		return d.act(StatePaused, vouch, soon, why+": putting the fence down until it is resumed", PauseLock{Paused: true})
	case d.Request.Restart:
		return d.pausedRestart()
	case !d.Lease.Ready && (d.Store.View.Initialize != "" || d.DB.SystemID != ""):
		if effects, done := d.beforeReady(); !done {
			return d.act(StatePaused, vouch, soon, why, effects...)
		}
		return d.act(StatePaused, vouch, soon, why, MarkReady{Timeline: d.DB.Timeline})
	case d.request() != nil && d.Store.Reachable:
		return d.handover()
	}
	// What a dropped request left behind must not make a later stop by hand look like a handover.
	d.m.StopFor, d.m.Handover, d.m.HandoverStep, d.m.HandoverTo = StopNone, 0, HandoverNone, ""
	effects, note, wait := d.syncStep()
	if len(effects) > 0 {
		return d.act(StatePaused, vouch, soon, why+"; "+note, effects...)
	}
	return Decision{State: StatePaused, Why: why, Vouch: vouch, Wait: wait}
}

// pausedRestart: an operator asked for a restart, or a start, during a pause.
func (d *decider) pausedRestart() Decision {
	const why = "restart asked for by an operator"
	vouch := d.settings().TTL
	refuse := func(reason string) Decision {
		return d.act(StatePaused, vouch, soon, "restart refused: "+reason, Answer{Request: "restart", Outcome: reason})
	}
	switch {
	case d.DB.Dir != DirValid || d.DB.Torn:
		d.m.StopFor = StopNone
		return refuse("there is no data here that could be started")
	case d.DB.Phase != Down && d.Job.Failed(JobStop):
		d.m.StopFor = StopNone
		return refuse("PostgreSQL did not stop: " + d.Job.Failure)
	case d.DB.Writable() && !d.Lease.Held:
		return refuse("PostgreSQL runs as a primary without the lock, and would come back read-only")
	case d.DB.Phase != Down:
		return d.act(StateRestarting, vouch, soon, why, Stop{Reason: StopRestart})
	case d.Lease.Held:
		return d.act(StateRestarting, vouch, soon, why, d.again(), Answer{Request: "restart", Outcome: "restarted", Done: true})
	}
	return d.act(StateRestarting, 0, soon, why, Start{Upstream: d.upstreamLeader()}, Answer{Request: "restart", Outcome: "restarted", Done: true})
}
