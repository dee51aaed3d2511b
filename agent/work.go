package agent

import (
	"context"
	"errors"
	"strings"

	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/wire"
)

// work does one install. done says that the disk is written and the node knows;
// otherwise the agent goes on asking. It fails only when ctx has ended.
func (a *Agent) work(ctx context.Context, signed *wire.SignedGrant) (done bool, err error) {
	a.reason = ""
	granted, allowed, err := a.cfg.Grants.Open(signed, a.id)
	if err != nil {
		// It is nobody's word, so it is not this task's end either.
		a.con.Printf("REFUSED: %v; nothing was written, and the node is asked again", err)
		return false, a.cfg.Sleep(ctx, refusedPause)
	}
	a.con.Printf("approved: task %s, image %s, onto the disk %s",
		granted.TaskID, orElse(granted.Plan.Image.Name, granted.Plan.Image.Digest), strings.TrimSpace(granted.Plan.Erase.Model+" "+granted.Plan.Erase.String()))
	a.con.setTask(granted.TaskID)

	if refused := a.check(&granted); refused != nil {
		if err := a.fail(ctx, &granted, refused); err != nil {
			return false, err
		}
		return false, a.report(ctx)
	}
	// No byte is destroyed before the node has written down that this grant is used.
	switch err := a.status(ctx, &granted, wire.StatusInstalling, nil); {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		a.con.Printf("the node does not let the install begin: %v", err)
		return false, a.cfg.Sleep(ctx, refusedPause)
	}
	// However an install ends short of its end, the node is shown the disks anew: a
	// plan made from what lay on them before could be approved but never be done.
	last, err := a.install(ctx, &granted, allowed)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, errRevoked):
		a.con.Printf("stopped: %v", err)
		return false, a.report(ctx)
	case errors.Is(err, grant.ErrEnded): // the image was waited for
		a.con.Printf("%v, before a byte was written; asking for another", err)
		return false, nil
	case err != nil:
		if err := a.fail(ctx, &granted, asTaskError(err)); err != nil {
			return false, err
		}
		return false, a.report(ctx)
	}
	if err := a.node.status(ctx, wire.StatusRequest{TaskID: granted.TaskID, Generation: granted.Generation, Status: wire.StatusCompleted,
		PlanHash: granted.PlanHash, Progress: &last}); err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		a.con.Printf("the disk is written, but the node does not take the news: %v", err)
		return false, a.report(ctx)
	}
	a.con.Printf("installed")
	return true, nil
}

// check looks at the machine once more: what a person approved must still be
// what is here.
func (a *Agent) check(g *wire.Grant) *wire.TaskError {
	if g.PlanHash != g.Plan.Hash() {
		return &wire.TaskError{Code: wire.CodePlanMismatch, Message: "the grant does not fit its plan; the agent stopped before it wrote"}
	}
	inv := a.cfg.Collect()
	if got := inv.Hash(); got != g.Plan.InventoryHash {
		return &wire.TaskError{
			Code:    wire.CodePlanMismatch,
			Message: "the machine is not as approved: its disks, cards or memory have changed; the agent stopped before it wrote",
			Details: "inventory is " + got + ", approved was " + g.Plan.InventoryHash,
		}
	}
	return nil
}

// install runs the installer with progress going to the node beside it, and gives
// the last of that.
func (a *Agent) install(ctx context.Context, g *wire.Grant, allowed func() error) (last wire.Progress, err error) {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := newProgress(g.TaskID, g.Generation, a.cfg.Now)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		p.send(work, a.node.progress, a.cfg.Sleep, cancel)
	}()
	err = a.cfg.Installer.Install(work, *g, allowed, a.node, func(pr wire.Progress) {
		if now, show := p.put(pr); show {
			a.con.Printf("%3.0f %% %s %s", now.Percentage, now.Stage, now.Message)
		}
	})
	p.close() // what is pending is still delivered, before the end of the task is told
	<-sent
	if cause := context.Cause(work); errors.Is(cause, errRevoked) && err != nil {
		return p.last, cause
	}
	return p.last, err
}

// fail tells the node why an install did not happen, and the console too.
func (a *Agent) fail(ctx context.Context, g *wire.Grant, te *wire.TaskError) error {
	a.con.Printf("FAILED: %s", te.Message)
	if te.Details != "" {
		a.con.Printf("        %s", te.Details)
	}
	if err := a.status(ctx, g, wire.StatusFailed, te); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.con.Printf("the node does not take the news: %v", err)
		return a.cfg.Sleep(ctx, refusedPause)
	}
	a.con.Printf("this machine stays up and asks what to do next")
	return nil
}

// status moves the task.
func (a *Agent) status(ctx context.Context, g *wire.Grant, s wire.Status, te *wire.TaskError) error {
	return a.node.status(ctx, wire.StatusRequest{
		TaskID: g.TaskID, Generation: g.Generation, Status: s, PlanHash: g.PlanHash, Epoch: g.Epoch, Error: te,
	})
}

// asTaskError gives every error a code.
func asTaskError(err error) *wire.TaskError {
	var te *wire.TaskError
	if errors.As(err, &te) {
		return te
	}
	return &wire.TaskError{Code: wire.CodeInternal, Message: err.Error()}
}
