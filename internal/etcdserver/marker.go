package etcdserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// markerFile lies beside etcd's own folder "member" and says whose data it is. etcd itself starts
// with any name and token once it has data.
const markerFile = "hathi-member.json"

type marker struct {
	Name  string `json:"name"`
	Token string `json:"cluster_token"`
}

// claim makes the data directory this member's own, and says whether it holds data already. Data
// without a marker (restored, or older than this file) is taken as it is.
func (s *Server) claim() (hasData bool, err error) {
	dir := s.config.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	if hasData, err = hasMember(dir); err != nil {
		return false, err
	}
	mine := marker{Name: s.config.Name, Token: s.config.ClusterToken}
	path := filepath.Join(dir, markerFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return false, err
	default:
		var theirs marker
		if err := json.Unmarshal(text, &theirs); err != nil {
			return false, fmt.Errorf("read %s: %w", path, err)
		}
		if theirs == mine {
			return hasData, nil
		}
		if hasData {
			return false, fmt.Errorf("the directory holds the data of member %q of cluster %q, not of %q of %q: "+
				"correct the configuration, or give this member an empty directory", theirs.Name, theirs.Token, mine.Name, mine.Token)
		}
	}
	text, err = json.Marshal(mine)
	if err != nil {
		return false, err
	}
	return hasData, atomicfile.Write(path, append(text, '\n'), 0o600)
}
