// Package agentserver is the node's end of the conversation with agents: it
// takes their reports, holds their long polls until a person has decided, hands
// out grants, and passes on how far an install has come.
//
// Every decision goes through the cluster and is acknowledged after commit, so
// an agent that was answered 200 may act on it. Percentages take the fast path.
//
// Any node answers any agent. One that does not know what an agent speaks of, or
// is about to give the permission to erase, first makes sure that it has heard all
// the others have decided. One that cannot reach a majority sends agents on to
// other nodes, lets an install that was allowed to begin go on, keeps its end
// until it can be told, and begins nothing.
package agentserver
