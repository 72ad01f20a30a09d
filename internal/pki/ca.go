// Package pki is the cluster's own certificate authority, the certificates it issues, and TLS
// configurations that re-read their files.
//
// Keys are ECDSA P-256. The authority signs leaves only (no intermediates), lives 10 years and its
// key is needed only to issue. Leaves live one year unless asked otherwise and never longer than
// the authority. There is no revocation: a lost key means a new authority.
//
// A Reloader needs no restart when certificates change, and goes on with the old ones while the
// files do not fit together. What it does not do: it does not end connections whose certificate
// has expired since.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// Lifetimes.
const (
	CALifetime   = 10 * 365 * 24 * time.Hour
	LeafLifetime = 365 * 24 * time.Hour
	// skew lets a certificate be valid a little before it was made, for peers whose clock is late.
	skew = 10 * time.Minute
)

// CA is a certificate authority with its key. It is safe for concurrent use.
type CA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
}

// NewCA makes an authority. The name is for people ("hathi demo").
func NewCA(name string) (*CA, error) {
	if name == "" {
		return nil, errors.New("make certificate authority: no name given")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority %q: %w", name, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(CALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority %q: %w", name, err)
	}
	return &CA{cert: cert, key: key, certPEM: encode("CERTIFICATE", der)}, nil
}

// LoadCA reads an authority and its key from PEM. The two must belong together.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("load certificate authority: the certificate of %q is not one of an authority", cert.Subject.CommonName)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority %q: %w", cert.Subject.CommonName, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load certificate authority %q: key and certificate do not belong together", cert.Subject.CommonName)
	}
	return &CA{cert: cert, key: key, certPEM: encode("CERTIFICATE", cert.Raw)}, nil
}

// LoadCAFiles is LoadCA from two files.
func LoadCAFiles(certFile, keyFile string) (*CA, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate authority: %w", err)
	}
	return LoadCA(certPEM, keyPEM)
}

// CertPEM is the authority's certificate, which everybody may have.
func (ca *CA) CertPEM() []byte { return append([]byte(nil), ca.certPEM...) }

// KeyPEM is the authority's key: whoever has it can be any node.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// NotAfter is when the authority ends.
func (ca *CA) NotAfter() time.Time { return ca.cert.NotAfter }

// Fingerprint is the SHA-256 of the certificate in hex, for people to compare.
func (ca *CA) Fingerprint() string {
	sum := sha256.Sum256(ca.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Request says what a certificate is for.
type Request struct {
	CommonName string   // whom it belongs to
	Names      []string // host names it is valid for
	IPs        []net.IP // addresses it is valid for
	Client     bool     // it may be shown by a client
	Server     bool     // it may be shown by a server; then it needs a name or an address
	ValidFor   time.Duration
	// ValidFor of 0 means LeafLifetime. It is cut to the life of the authority.
}

// Leaf is an issued certificate with its key, in PEM.
type Leaf struct {
	CertPEM, KeyPEM []byte
	NotAfter        time.Time
}

// Issue makes a new key and signs a certificate for it.
func (ca *CA) Issue(r Request) (Leaf, error) {
	leaf, err := ca.issue(r)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate for %q: %w", r.CommonName, err)
	}
	return leaf, nil
}

func (ca *CA) issue(r Request) (Leaf, error) {
	now := time.Now()
	switch {
	case r.CommonName == "":
		return Leaf{}, errors.New("no common name given")
	case !r.Client && !r.Server:
		return Leaf{}, errors.New("it must be for a client, a server or both")
	case r.Server && len(r.Names)+len(r.IPs) == 0:
		return Leaf{}, errors.New("a server needs at least one name or address")
	case r.ValidFor < 0:
		return Leaf{}, fmt.Errorf("it cannot be valid for %v", r.ValidFor)
	case !now.Before(ca.cert.NotAfter):
		return Leaf{}, fmt.Errorf("the authority %q expired on %s; make a new one", ca.cert.Subject.CommonName, ca.cert.NotAfter.Format(time.DateOnly))
	}
	if r.ValidFor == 0 {
		r.ValidFor = LeafLifetime
	}
	notAfter := now.Add(r.ValidFor)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	var usage []x509.ExtKeyUsage
	if r.Server {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		usage = append(usage, x509.ExtKeyUsageClientAuth)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Leaf{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: r.CommonName},
		NotBefore:             now.Add(-skew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
		DNSNames:              r.Names,
		IPAddresses:           r.IPs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Leaf{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{CertPEM: encode("CERTIFICATE", der), KeyPEM: keyPEM, NotAfter: notAfter.UTC().Truncate(time.Second)}, nil
}

// serial is 127 random bits: unique without a register.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	b[15] |= 1 // never zero
	return new(big.Int).SetBytes(b[:])
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("PRIVATE KEY", der), nil
}

func parseCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("there is no private key in PEM form (PKCS 8)")
	}
	// The error of a parser could quote the key.
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private key is not an ECDSA key")
	}
	return k, nil
}
