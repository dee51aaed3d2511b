package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/lpmos/lpmos/consensus/fleet"
)

var (
	orderType       = reflect.TypeFor[ImageOrder]()
	profileFileType = reflect.TypeFor[fleet.ProfileFile]()
	imageType       = reflect.TypeFor[Image]()
)

// decodeOrder reads the JSON form of an order, as strictly as every other body.
func decodeOrder(body []byte) (o ImageOrder, err error) {
	if err := CheckJSON(body); err != nil {
		return o, fieldProblem("", err.Error())
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return o, fieldProblem("", "the body is no image order: "+clip(err.Error()))
	}
	return o, nil
}

// splitName takes "debian-12" apart into debian and 12.
func splitName(name string) (osType, osVersion string) {
	osType, osVersion, _ = strings.Cut(name, "-")
	return osType, osVersion
}
