package supervise

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"
)

// The protocol: a client connects, writes one request, a JSON object in one line, and reads answers,
// one a line, until the server closes the connection. status and restart get one answer; stop gets
// one at once and another with Final set when everything has ended and the directory is free.

// maxRequest bounds a request line, in bytes.
const maxRequest = 4096

// maxAnswer bounds an answer line, in bytes.
const maxAnswer = 1 << 20

// request is what a client asks.
type request struct {
	Do   string `json:"do"` // status, stop, restart
	Name string `json:"name,omitempty"`
}

// answer is what the supervisor says.
type answer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Unknown: the error is ErrUnknown.
	Unknown bool    `json:"unknown,omitempty"`
	Final   bool    `json:"final,omitempty"`
	Report  *Report `json:"report,omitempty"`
}

// Report is what a supervisor says about itself.
type Report struct {
	// PID is the supervisor's.
	PID int `json:"pid"`
	// Since is when it was opened (wall clock).
	Since time.Time `json:"since"`
	// Stopping says that it was asked to stop.
	Stopping  bool         `json:"stopping,omitempty"`
	Processes []ProcStatus `json:"processes"`
}

// parseRequest reads one line, the line feed included or not.
func parseRequest(line []byte) (request, error) {
	if len(line) > maxRequest {
		return request{}, fmt.Errorf("a request of more than %d bytes", maxRequest)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var r request
	if err := d.Decode(&r); err != nil {
		return request{}, fmt.Errorf("not a request: %w", err)
	}
	if d.More() {
		return request{}, errors.New("more than one object in a line")
	}
	switch r.Do {
	case "status", "stop":
		if r.Name != "" {
			return request{}, fmt.Errorf("%s takes no name", r.Do)
		}
	case "restart":
		if !goodName.MatchString(r.Name) {
			return request{}, errors.New("restart whom? the name is missing or is none")
		}
	default:
		return request{}, errors.New("unknown request: use status, stop or restart")
	}
	return r, nil
}

func socketPath(dir string) string { return filepath.Join(dir, reserved+".sock") }

// short is path below the directory that fd has open, in the few bytes that a socket's address may
// have (107), however long the directory's own path is.
func short(fd uintptr, path string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(fd)) + "/" + path
}
