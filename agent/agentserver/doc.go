// Package agentserver is the node's end of the conversation with agents: it
// takes their reports, holds their long polls until a person has decided, hands
// out grants, and passes on how far an install has come.
//
// Every decision goes through the cluster and is acknowledged after commit, so
// an agent that was answered 200 may act on it. Percentages take the fast path.
package agentserver
