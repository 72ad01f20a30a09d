package health_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hathi-ha/hathi/internal/health"
)

func codes(list []health.Problem) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.Code)
	}
	return out
}

func TestRegistry(t *testing.T) {
	var r health.Registry
	var events []string
	r.OnChange(func(p health.Problem, began bool) { events = append(events, fmt.Sprint(p.Code, " ", began)) })
	r.Set(5*time.Second, "no_standby", health.Warning, "no standby streams", "start one", "store_unreachable")
	r.Set(6*time.Second, "disk", health.Notice, "80 % full", "")
	r.Set(7*time.Second, "store_unreachable", health.Critical, "etcd does not answer", "look at etcd")
	r.Set(9*time.Second, "store_unreachable", health.Critical, "etcd still does not answer", "look at etcd")

	list := r.List()
	if got, want := codes(list), []string{"store_unreachable", "disk", "no_standby"}; !slices.Equal(got, want) {
		t.Errorf("got order %v, want %v", got, want)
	}
	if list[0].Since != 7*time.Second || list[0].Sentence != "etcd still does not answer" {
		t.Errorf("got %+v, want the first instant and the newest sentence", list[0])
	}
	if !list[2].Explained {
		t.Error("got no_standby unexplained while store_unreachable lasts, want explained")
	}
	r.Clear("store_unreachable")
	r.Clear("store_unreachable")
	if r.Has("store_unreachable") || r.List()[0].Code != "no_standby" || r.List()[0].Explained {
		t.Errorf("after clear: got %+v, want no_standby first and unexplained", r.List())
	}
	if want := []string{"no_standby true", "disk true", "store_unreachable true", "store_unreachable false"}; !slices.Equal(events, want) {
		t.Errorf("got events %v, want %v", events, want)
	}
}

func TestRegistry_ConcurrentUse(t *testing.T) {
	var r health.Registry
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				code := fmt.Sprint("p", (i+j)%5)
				r.Set(time.Duration(j), code, health.Notice, "x", "")
				r.List()
				r.Clear(code)
			}
		})
	}
	wg.Wait()
	if got := r.List(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}
