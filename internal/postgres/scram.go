package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// scramIterations is PostgreSQL's own default (SCRAM_SHA_256_DEFAULT_ITERATIONS).
const scramIterations = 4096

// SCRAMVerifier is what PostgreSQL stores instead of the password (RFC 5803), with a fresh salt.
// Setting it as the password keeps the plain text out of the server's logs and statistics.
func SCRAMVerifier(password string) (string, error) {
	if err := usablePassword(password); err != nil {
		return "", err
	}
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make a salt: %w", err)
	}
	return scramVerifier(password, salt, scramIterations)
}

// usablePassword refuses passwords that clients normalize differently (SASLprep in libpq, PRECIS in
// others), with which one program would sign in and another would not.
func usablePassword(password string) error {
	if password == "" {
		return errors.New("the password is empty")
	}
	plain := true
	for _, r := range password {
		if r >= utf8.RuneSelf {
			plain = false
		}
		if r == 0 || r == '\n' || r == '\r' {
			return errors.New("the password has a line break or a zero byte in it, which libpq's password file cannot hold")
		}
		if r >= utf8.RuneSelf && (unicode.IsSpace(r) || !unicode.IsPrint(r)) {
			return errors.New("the password has an unusual blank or an invisible character in it, which clients treat differently: leave it out")
		}
	}
	if !plain && (!utf8.ValidString(password) || !norm.NFKC.IsNormalString(password)) {
		return errors.New("the password has characters in it that clients normalize differently: use plain letters, digits and signs")
	}
	return nil
}

func scramVerifier(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a SCRAM key: %w", err)
	}
	mac := func(text string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// VerifierMatches says whether verifier, as PostgreSQL stores it, is that of password. Anything
// that is no SCRAM verifier (MD5, none) does not match.
func VerifierMatches(verifier, password string) bool {
	rest, ok := strings.CutPrefix(verifier, "SCRAM-SHA-256$")
	if !ok {
		return false
	}
	count, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return false
	}
	salt64, _, ok := strings.Cut(rest, "$")
	if !ok {
		return false
	}
	iterations, err := strconv.Atoi(count)
	if err != nil || iterations < 1 || iterations > 1_000_000 {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if err != nil {
		return false
	}
	want, err := scramVerifier(password, salt, iterations)
	return err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(verifier)) == 1
}
