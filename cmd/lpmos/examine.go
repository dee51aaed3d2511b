package main

import (
	"context"
	"time"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/doctor"
	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/ui/api"
)

// examiner looks at this host as lpmos doctor does, from inside of the node. A node
// starts no programs and is not root, so some of it is left out and says so.
func examiner(cfg config.Config) appliance.Examiner {
	return func(ctx context.Context) api.Examination {
		var e api.Examination
		h := &doctor.Host{Config: cfg, Version: version, Inside: true, BootFiles: bootimage.Files(), Now: time.Now, CheckDir: appliance.CheckDataDir}
		r := doctor.Examine(ctx, doctor.Checks(h), func(depth int, r doctor.Result) {
			e.Checks = append(e.Checks, api.Check{ID: r.ID, Of: r.Of, Depth: depth, Verdict: string(r.Verdict), Reason: r.Reason, Fix: r.Fix})
		})
		e.Verdict = string(r.Verdict)
		return e
	}
}
