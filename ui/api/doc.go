// Package api is the REST interface of a node for people, scripts and the
// command line: JSON under /api/v1, described by the OpenAPI 3.1 document at
// /openapi.json, errors as RFC 9457 problems.
//
// It holds no rule of its own. A request becomes a command, the fleet's rules
// answer it, and what the rules refuse is told with the status that fits. What
// is shown comes from one place too: the Lens turns the fleet's values into the
// views that the REST answers and the dashboard's socket share, with the
// actions a person may take, so that no screen has to know a rule.
package api
