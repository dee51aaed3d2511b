package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// maxProfileFile is the largest file of a profile: a kernel, an initramfs or a program,
// which a machine has to hold in its memory.
const maxProfileFile = 2 << 30

// ProfileWish is the body of POST /profiles.
type ProfileWish struct {
	Name    string              `json:"name" maxLength:"64"`
	Kind    fleet.ProfileKind   `json:"kind" enum:"kernel,script,program" doc:"What it is made of: a kernel with its initramfs, a script of iPXE's, or a program that firmware starts"`
	Text    string              `json:"text,omitempty" maxLength:"200" doc:"What it is, in a sentence"`
	Kernel  *fleet.ProfileFile  `json:"kernel,omitempty"`
	Initrds []fleet.ProfileFile `json:"initrds,omitempty" maxItems:"16"`
	Args    string              `json:"args,omitempty" maxLength:"1024" doc:"Template of the kernel's command line"`
	Script  string              `json:"script,omitempty" maxLength:"65536" doc:"Template of a script of iPXE's"`
	BIOS    *fleet.ProfileFile  `json:"bios,omitempty"`
	UEFI    *fleet.ProfileFile  `json:"uefi,omitempty"`
	Files   []fleet.ProfileFile `json:"files,omitempty" maxItems:"16" doc:"Files that a script names as {{file:NAME}}"`
	Answers []fleet.AnswerFile  `json:"answers,omitempty" maxItems:"16" doc:"Templates of files that are made for each machine: preseed, kickstart, user-data"`
	Erases  *bool               `json:"erases,omitempty" doc:"Whether what it starts may write to a disk; true if not given. Asking for it takes a plan then"`
}

// Profile is what a machine can be booted into once.
type Profile struct {
	Name      string              `json:"name"`
	Kind      fleet.ProfileKind   `json:"kind" doc:"agent, rescue, memtest, kernel, script or program"`
	Text      string              `json:"text"`
	BuiltIn   bool                `json:"built_in" doc:"Every node has it, and it cannot be removed"`
	Erases    bool                `json:"erases"`
	Kernel    *fleet.ProfileFile  `json:"kernel,omitempty" doc:"The digests of files are empty but when one profile is asked for, by an operator: who knows them can fetch the files"`
	Initrds   []fleet.ProfileFile `json:"initrds,omitempty"`
	Args      string              `json:"args,omitempty" doc:"When one profile is asked for, by an operator"`
	Script    string              `json:"script,omitempty" doc:"When one profile is asked for, by an operator"`
	BIOS      *fleet.ProfileFile  `json:"bios,omitempty"`
	UEFI      *fleet.ProfileFile  `json:"uefi,omitempty"`
	Files     []fleet.ProfileFile `json:"files,omitempty"`
	Answers   []fleet.AnswerFile  `json:"answers,omitempty" doc:"Their texts when one profile is asked for, by an operator: passwords are found in them"`
	Digest    string              `json:"digest" doc:"Names all of it but the text"`
	By        string              `json:"by,omitempty"`
	CreatedAt time.Time           `json:"created_at,omitzero"`
}

// ProfileList is every profile, those of every node first.
type ProfileList struct {
	Profiles []Profile `json:"profiles"`
}

// BootWish asks that a machine boots a profile once: the body of POST /machines/{id}/boot.
type BootWish struct {
	Profile       string `json:"profile" maxLength:"64"`
	Digest        string `json:"digest,omitempty" maxLength:"64" doc:"Of the profile as it was seen; any if not given"`
	Disk          string `json:"disk,omitempty" maxLength:"256" doc:"Serial or WWN of the disk that may be erased; the smallest that fits if not given"`
	PlanHash      string `json:"plan_hash,omitempty" maxLength:"64" doc:"Of the plan that was seen; needed where the profile erases"`
	ConfirmSerial string `json:"confirm_serial,omitempty" maxLength:"128" doc:"The last 4 characters of the plan's confirm, if it has one"`
	Notes         string `json:"notes,omitempty" maxLength:"4096"`
}

// BootPreview is what booting a profile would take, with nothing made.
type BootPreview struct {
	Profile Profile `json:"profile"`
	Preview
}

// NextBoot is a wish that a machine boots a profile at its next netboot.
type NextBoot struct {
	Profile   string          `json:"profile"`
	Erases    bool            `json:"erases"`
	By        string          `json:"by"`
	At        time.Time       `json:"at"`
	Expires   time.Time       `json:"expires"`
	Waits     string          `json:"waits" doc:"What it waits for, in half a sentence"`
	Disk      string          `json:"disk,omitempty" doc:"That it may erase: serial, or else WWN"`
	PlanHash  string          `json:"plan_hash,omitempty"`
	FirstWord *fleet.Approval `json:"first_word,omitempty" doc:"An approval that waits for a second person's"`
	Approval  *fleet.Approval `json:"approval,omitempty"`
	CheckedAt time.Time       `json:"checked_at,omitzero" doc:"When its agent has shown, after the approval, that the plan is still true"`
}

// LastBoot is the profile that a machine booted last.
type LastBoot struct {
	Profile string        `json:"profile"`
	Erases  bool          `json:"erases"`
	By      string        `json:"by"`
	At      time.Time     `json:"at" doc:"When it was given the profile's script"`
	Disk    string        `json:"disk,omitempty" doc:"That it might erase: serial, or else WWN"`
	CameUp  *fleet.CameUp `json:"came_up,omitempty" doc:"The word of what it started, if it has reported"`
}

func nextBoot(n *fleet.NextBoot) *NextBoot {
	if n == nil {
		return nil
	}
	v := &NextBoot{Profile: n.Profile, Erases: n.Erases, By: n.By, At: n.At, Expires: n.Expires, Waits: n.Waits(), PlanHash: n.PlanHash,
		FirstWord: n.FirstWord, Approval: n.Approval, CheckedAt: n.CheckedAt}
	if d := n.EraseDisk(); d != nil {
		v.Disk = d.String()
	}
	return v
}

func lastBoot(b *fleet.ProfileBoot) *LastBoot {
	if b == nil {
		return nil
	}
	v := &LastBoot{Profile: b.Profile, Erases: b.Erases, By: b.By, At: b.At, CameUp: b.CameUp}
	if b.Disk != nil {
		v.Disk = b.Disk.String()
	}
	return v
}

type profileName struct {
	Name string `path:"name" maxLength:"64"`
}

type profileOut struct{ Body Profile }

type previewBootIn struct {
	ID      string `path:"id" maxLength:"64"`
	Profile string `query:"profile" maxLength:"64" required:"true"`
	Disk    string `query:"disk" maxLength:"256"`
}

type askBootIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body BootWish
}

func (s *Server) profileRoutes() {
	route(s, http.MethodGet, "/profiles", 200, door.Viewer, "List what machines can be booted into once", s.listProfiles)
	route(s, http.MethodPost, "/profiles", 201, door.Admin, "Make a profile, or another of the same name in its place", s.putProfile)
	route(s, http.MethodGet, "/profiles/{name}", 200, door.Viewer, "One profile", s.getProfile)
	route(s, http.MethodDelete, "/profiles/{name}", 204, door.Admin, "Remove a profile", s.deleteProfile)
	route(s, http.MethodGet, "/machines/{id}/boot", 200, door.Operator, "What booting a profile would take, making nothing", s.previewBoot)
	route(s, http.MethodPost, "/machines/{id}/boot", 200, door.Operator, "Have a machine boot a profile once, at its next netboot", s.askBoot)
	route(s, http.MethodDelete, "/machines/{id}/boot", 200, door.Operator, "Take such a wish back", s.cancelBoot)

	reg := s.api.OpenAPI().Components.Schemas
	op := huma.Operation{
		OperationID: "post-profile-files", Method: http.MethodPost, Path: "/api/v1/profile-files", Tags: []string{"profiles"}, DefaultStatus: 201,
		Summary:     "Keep a file for a profile",
		Description: "The body is the file as it is. It is kept for the profile that names it; if none does, it is forgotten.",
		Parameters:  []*huma.Param{{Name: "name", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString}}},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}},
		Responses: map[string]*huma.Response{"201": {Description: "Created",
			Content: map[string]*huma.MediaType{"application/json": {Schema: reg.Schema(profileFileType, true, "ProfileFile")}}}},
	}
	s.raw(&op, door.Admin, func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		f, err := s.keepFile(w, r)
		if err != nil {
			s.problem(err).WriteTo(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		// An error here means that nobody reads the answer any more.
		_ = huma.DefaultJSONFormat.Marshal(w, f)
	})
}

// keepFile takes a file in.
func (s *Server) keepFile(w http.ResponseWriter, r *http.Request) (*fleet.ProfileFile, error) {
	name := r.URL.Query().Get("name")
	if err := fleet.CheckFileName(name); err != nil {
		return nil, err
	}
	if r.ContentLength > maxProfileFile {
		return nil, NewProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf("file %s has %d bytes; %d at most", name, r.ContentLength, maxProfileFile))
	}
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{}) // as for an image: any time is right as long as bytes come
	digest, size, err := s.cfg.Images.ImportFile(r.Context(), patient{r.Body, rc}, ImportOptions{FileBytes: uint64(max(r.ContentLength, 0)), MaxBytes: maxProfileFile})
	if err != nil {
		return nil, importProblem(err)
	}
	if !s.door.Still(door.CallerOf(r.Context())) {
		err = NewProblem(http.StatusUnauthorized, "you may not any more: your session or token has ended; the file was not kept")
		return nil, errors.Join(err, s.release(digest))
	}
	return &fleet.ProfileFile{Name: name, Digest: digest, SizeBytes: size}, nil
}

// profileView is a profile as it may be shown; whole adds what may hold passwords, and the
// digests of files, with which machines fetch them and so can anybody.
func profileView(p *fleet.Profile, whole bool) Profile {
	v := Profile{Name: p.Name, Kind: p.Kind, Text: p.Text, BuiltIn: p.BuiltIn(), Erases: p.Erases, Kernel: p.Kernel, Initrds: p.Initrds,
		BIOS: p.BIOS, UEFI: p.UEFI, Files: p.Files, Digest: p.Digest, By: p.By, CreatedAt: p.CreatedAt}
	if whole {
		v.Args, v.Script, v.Answers = p.Args, p.Script, p.Answers
		return v
	}
	for _, f := range []**fleet.ProfileFile{&v.Kernel, &v.BIOS, &v.UEFI} {
		if *f != nil {
			*f = &fleet.ProfileFile{Name: (*f).Name, SizeBytes: (*f).SizeBytes}
		}
	}
	for _, list := range []*[]fleet.ProfileFile{&v.Initrds, &v.Files} {
		*list = slices.Clone(*list) // the state's own stays as it is
		for i := range *list {
			(*list)[i].Digest = ""
		}
	}
	for _, a := range p.Answers {
		v.Answers = append(v.Answers, fleet.AnswerFile{Name: a.Name})
	}
	return v
}

func (s *Server) listProfiles(context.Context, *nothing) (*struct{ Body ProfileList }, error) {
	list := ProfileList{Profiles: []Profile{}}
	var all []*fleet.Profile
	s.cfg.Cluster.View(func(st *fleet.State) { all = st.Profiles() })
	for _, p := range all {
		list.Profiles = append(list.Profiles, profileView(p, false))
	}
	return &struct{ Body ProfileList }{list}, nil
}

func (s *Server) getProfile(ctx context.Context, in *profileName) (*profileOut, error) {
	var p *fleet.Profile
	s.cfg.Cluster.View(func(st *fleet.State) { p = st.Profile(in.Name) })
	if p == nil {
		return nil, NewProblem(http.StatusNotFound, "there is no profile "+clip(in.Name))
	}
	return &profileOut{profileView(p, door.Operator.Met(door.CallerOf(ctx)))}, nil
}

func (s *Server) putProfile(ctx context.Context, in *struct{ Body ProfileWish }) (*profileOut, error) {
	b := in.Body
	p := fleet.Profile{Name: b.Name, Kind: b.Kind, Text: b.Text, Kernel: b.Kernel, Initrds: b.Initrds, Args: b.Args, Script: b.Script,
		BIOS: b.BIOS, UEFI: b.UEFI, Files: b.Files, Answers: b.Answers, Erases: b.Erases == nil || *b.Erases, By: who(ctx)}
	var before []fleet.ProfileFile
	s.cfg.Cluster.View(func(st *fleet.State) {
		if old := st.Profile(b.Name); old != nil {
			before = old.AllFiles()
		}
	})
	result, err := s.cfg.Cluster.Propose(ctx, fleet.PutProfile{Profile: p})
	if err != nil {
		return nil, err
	}
	put, ok := result.(*fleet.Profile)
	if !ok {
		return nil, fmt.Errorf("make profile %s: the cluster answered with %T", b.Name, result)
	}
	return &profileOut{profileView(put, true)}, s.releaseFiles(before)
}

func (s *Server) deleteProfile(ctx context.Context, in *profileName) (*nothing, error) {
	var files []fleet.ProfileFile
	s.cfg.Cluster.View(func(st *fleet.State) {
		if p := st.Profile(in.Name); p != nil {
			files = p.AllFiles()
		}
	})
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.DeleteProfile{Name: in.Name}); err != nil {
		return nil, err
	}
	return nil, s.releaseFiles(files)
}

// releaseFiles deletes the bytes of files that nothing refers to any more.
func (s *Server) releaseFiles(files []fleet.ProfileFile) error {
	var all error
	for _, f := range files {
		all = errors.Join(all, s.release(f.Digest))
	}
	return all
}

func (s *Server) previewBoot(_ context.Context, in *previewBootIn) (*struct{ Body BootPreview }, error) {
	p, preview, err := s.bootPlan(in.ID, in.Profile, in.Disk)
	if err != nil {
		return nil, err
	}
	return &struct{ Body BootPreview }{BootPreview{profileView(p, false), preview}}, nil
}

// bootPlan is what booting a profile would be approved for, or why it cannot be.
func (s *Server) bootPlan(machine, profile, disk string) (*fleet.Profile, Preview, error) {
	var m *fleet.Machine
	var p *fleet.Profile
	var err error
	s.cfg.Cluster.View(func(st *fleet.State) {
		if m = st.Machine(machine); m != nil {
			p, err = st.CheckBoot(m, profile)
		}
	})
	if m == nil {
		return nil, Preview{}, NewProblem(http.StatusNotFound, "there is no machine "+clip(machine))
	}
	if err != nil {
		return nil, Preview{}, err
	}
	if !p.Erases {
		return p, Preview{}, p.CheckValues(m, nil)
	}
	var plan wire.Plan
	plan, err = fleet.ProfilePlan(m, p, disk)
	switch {
	case fleet.ErrorCode(err) == fleet.Invalid:
		return nil, Preview{}, err
	case err != nil:
		return p, Preview{Problem: err.Error()}, nil
	}
	v := Preview{Plan: &plan, PlanHash: plan.Hash(), Confirm: fleet.Confirm(&plan)}
	s.plans.remember(v.PlanHash, v.Plan)
	return p, v, nil
}

func (s *Server) askBoot(ctx context.Context, in *askBootIn) (*struct{ Body Machine }, error) {
	b := in.Body
	if !printable(b.Disk, 256) {
		return nil, fieldProblem("disk", "disk has to be the serial number or WWN of a disk")
	}
	cmd := fleet.AskBoot{ID: s.cfg.NewID(), MachineID: in.ID, Profile: b.Profile, Digest: b.Digest, Token: s.cfg.NewToken(), Disk: b.Disk, By: who(ctx)}
	var erases bool
	s.cfg.Cluster.View(func(st *fleet.State) {
		if p := st.Profile(b.Profile); p != nil {
			erases = p.Erases
		}
	})
	if erases {
		if err := checkWord(b.PlanHash); err != nil {
			return nil, err
		}
		cmd.Approve = &fleet.Decision{PlanHash: b.PlanHash, Notes: b.Notes, By: who(ctx), ConfirmSerial: b.ConfirmSerial, CheckSerial: true}
	}
	_, err := s.cfg.Cluster.Propose(ctx, cmd)
	if erases && fleet.ErrorCode(err) == fleet.Precondition {
		_, now, _ := s.bootPlan(in.ID, b.Profile, b.Disk) // why there is none now the refusal says already
		return nil, s.stale(err, b.PlanHash, now.Plan)
	}
	if err != nil {
		return nil, err
	}
	return s.getMachine(ctx, &machineID{ID: in.ID})
}

func (s *Server) cancelBoot(ctx context.Context, in *machineID) (*struct{ Body Machine }, error) {
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.CancelBoot{MachineID: in.ID, By: who(ctx)}); err != nil {
		return nil, err
	}
	return s.getMachine(ctx, in)
}
