package pki

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hathi-ha/hathi/internal/atomicfile"
)

// Files names the files of one identity: its certificate, its key and the authority that its peers
// must be signed by.
type Files struct{ Cert, Key, CA string }

// BundleFiles are the files that WriteBundle writes for name into dir.
func BundleFiles(dir, name string) Files {
	return Files{
		Cert: filepath.Join(dir, name+".crt"),
		Key:  filepath.Join(dir, name+".key"),
		CA:   filepath.Join(dir, "ca.crt"),
	}
}

// WriteBundle writes ca.crt, NAME.crt (0644) and NAME.key (0600) into dir, which is made (0755) if
// it does not exist. The files are owned by uid and gid; -1 leaves the user or group as it is. Each
// file is replaced whole. Readers that see the new key beside the old certificate must go on with
// what they had, as Reloader does.
func WriteBundle(dir, name string, caPEM []byte, leaf Leaf, uid, gid int) (Files, error) {
	f := BundleFiles(dir, name)
	if name == "" || name == "ca" || strings.ContainsAny(name, "/\x00") {
		return f, fmt.Errorf("write certificates to %s: %q cannot be the name of a file", dir, name)
	}
	if len(caPEM) == 0 || len(leaf.CertPEM) == 0 || len(leaf.KeyPEM) == 0 {
		return f, errors.New("write certificates: one of them is empty")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return f, fmt.Errorf("write certificates: %w", err)
	}
	// The authority first: a reader that sees the new certificate can then judge it.
	for _, w := range []struct {
		path string
		data []byte
		perm os.FileMode
	}{{f.CA, caPEM, 0o644}, {f.Key, leaf.KeyPEM, 0o600}, {f.Cert, leaf.CertPEM, 0o644}} {
		if err := atomicfile.WriteOwned(w.path, w.data, w.perm, uid, gid); err != nil {
			return f, err
		}
	}
	return f, nil
}

// WriteCA writes the authority itself to dir: ca.crt (0644) and ca.key (0600). It refuses to
// replace an authority that is there: every certificate it signed would be worthless.
func WriteCA(dir string, ca *CA, uid, gid int) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		return "", "", fmt.Errorf("write certificate authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", "", fmt.Errorf("write certificate authority: %w", err)
	}
	if _, err := os.Lstat(keyFile); !errors.Is(err, os.ErrNotExist) {
		return "", "", fmt.Errorf("write certificate authority: %s is there already; move it away if a new authority is wanted", keyFile)
	}
	if err := atomicfile.WriteOwned(keyFile, keyPEM, 0o600, uid, gid); err != nil {
		return "", "", err
	}
	if err := atomicfile.WriteOwned(certFile, ca.CertPEM(), 0o644, uid, gid); err != nil {
		return "", "", err
	}
	return certFile, keyFile, nil
}
