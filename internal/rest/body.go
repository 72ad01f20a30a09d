package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
	"unicode/utf8"
)

// readObject reads the body as one JSON object. An absent body is 411, an empty or unreadable one
// 400, a too large one 413; with optional, an absent or empty body is an empty object (Patroni's
// _read_json_content).
func readObject(w http.ResponseWriter, r *http.Request, optional bool) (map[string]any, *refusal) {
	if r.ContentLength <= 0 && len(r.TransferEncoding) == 0 {
		switch {
		case optional:
			// Nothing is left to arrive; an action may take longer than a body.
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
			return map[string]any{}, nil
		case r.Header.Get("Content-Length") == "":
			return nil, &refusal{code: http.StatusLengthRequired, text: "Length Required"}
		}
		return nil, badBody("the body is empty")
	}
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, tooLarge
		}
		return nil, badBody("the body did not arrive whole")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if optional && len(bytes.TrimSpace(b)) == 0 {
		return map[string]any{}, nil
	}
	obj, err := parseObject(b)
	if err != nil {
		return nil, badBody(err.Error())
	}
	if len(obj) == 0 && !optional {
		return nil, badBody("the object is empty")
	}
	return obj, nil
}

var tooLarge = &refusal{code: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("the body is larger than %d bytes", maxBody)}

func badBody(why string) *refusal {
	return &refusal{code: http.StatusBadRequest, text: "Bad Request: want a JSON object: " + why}
}

// parseObject reads one JSON object of bounded depth and valid UTF-8, with numbers kept as written.
func parseObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("it is not valid UTF-8")
	}
	if err := checkDepth(b, maxDepth); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var obj map[string]any
	if err := dec.Decode(&obj); err != nil {
		return nil, err
	}
	if obj == nil {
		return nil, errors.New("it is null")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return obj, nil
}

func checkDepth(b []byte, most int) error {
	depth, inText := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > most {
				return fmt.Errorf("it is nested more than %d deep", most)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}
