package access_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"croft"
	"croft/internal/access"
	"croft/internal/store"
	"croft/internal/store/storetest"
)

// bench is a database with its default workspace and one store of keys over it.
type bench struct {
	*access.Store
	t   *testing.T
	ctx context.Context
	db  *store.DB
	key string // the first API key
}

func each(t *testing.T, fn func(b *bench)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, url string) {
		db, err := store.Open(t.Context(), store.Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		b := &bench{Store: access.New(db, nil), t: t, ctx: t.Context(), db: db}
		created, key, err := b.EnsureDefault(b.ctx, "")
		if err != nil || !created {
			t.Fatalf("the first start: %v, %v", created, err)
		}
		b.key = key
		fn(b)
	})
}

// refused checks that a credential is answered by a 401 that does not repeat it.
func (b *bench) refused(s *access.Store, credential string) {
	b.t.Helper()
	p, err := s.Authenticate(b.ctx, credential)
	if !croft.IsType(err, croft.Authentication) {
		b.t.Errorf("a credential that is not in force: %+v, %v", p, err)
		return
	}
	if credential != "" && strings.Contains(err.Error(), credential) {
		b.t.Errorf("the error repeats the credential: %v", err)
	}
}

func (b *bench) create(kind access.Kind, environment string) (id, key string) {
	b.t.Helper()
	id, key, err := b.Create(b.ctx, access.DefaultWorkspace, kind, "a key", environment)
	if err != nil {
		b.t.Fatal(err)
	}
	return id, key
}

func TestKinds(t *testing.T) {
	each(t, func(b *bench) {
		for _, tt := range []struct {
			kind        access.Kind
			environment string
			prefix      string
		}{
			{access.API, "", "croft_api_"},
			{access.Fleet, "", "croft_fleet_"},
			{access.Environment, "env_1", "croft_env_"},
		} {
			id, key := b.create(tt.kind, tt.environment)
			if rest, ok := strings.CutPrefix(key, tt.prefix); !ok || len(rest) != 43 {
				t.Errorf("a key of kind %s has the wrong form", tt.kind)
			}
			got, err := b.Authenticate(b.ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			want := &access.Principal{Workspace: access.DefaultWorkspace, Kind: tt.kind, KeyID: id, EnvironmentID: tt.environment}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", tt.kind, diff)
			}
		}
		b.refused(b.Store, "")
		b.refused(b.Store, "croft_api_0000000000000000000000000000000000000000000")
		b.refused(b.Store, b.key+"x")
		b.refused(b.Store, strings.Repeat("x", 1<<20))
	})
}

func TestBadKeys(t *testing.T) {
	each(t, func(b *bench) {
		for name, tt := range map[string]struct {
			workspace string
			kind      access.Kind
			label     string
			env       string
			want      croft.ErrorType
		}{
			"a kind that is none":               {access.DefaultWorkspace, "root", "", "", croft.InvalidRequest},
			"a session token":                   {access.DefaultWorkspace, access.Session, "", "", croft.InvalidRequest},
			"an environment key without one":    {access.DefaultWorkspace, access.Environment, "", "", croft.InvalidRequest},
			"an API key with an environment":    {access.DefaultWorkspace, access.API, "", "env_1", croft.InvalidRequest},
			"a name without end":                {access.DefaultWorkspace, access.API, strings.Repeat("n", 257), "", croft.InvalidRequest},
			"a workspace that is not there":     {"wrkspc_none", access.API, "", "", croft.NotFound},
			"another kind in no such workspace": {"wrkspc_none", access.Fleet, "", "", croft.NotFound},
		} {
			if _, _, err := b.Create(b.ctx, tt.workspace, tt.kind, tt.label, tt.env); !croft.IsType(err, tt.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestRevoke(t *testing.T) {
	each(t, func(b *bench) {
		other := access.New(b.db, nil) // another process
		id, key := b.create(access.API, "")
		for _, s := range []*access.Store{b.Store, other} {
			if _, err := s.Authenticate(b.ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Revoke(b.ctx, "wrkspc_other", id); !croft.IsType(err, croft.NotFound) {
			t.Errorf("another workspace's key: %v", err)
		}
		if _, err := b.Authenticate(b.ctx, key); err != nil {
			t.Errorf("after another workspace tried to revoke it: %v", err)
		}
		for range 2 {
			if err := b.Revoke(b.ctx, access.DefaultWorkspace, id); err != nil {
				t.Fatal(err)
			}
		}
		b.refused(b.Store, key)
		eventually(t, "the other process sees it", func() bool {
			_, err := other.Authenticate(b.ctx, key)
			return croft.IsType(err, croft.Authentication)
		})
		if _, err := b.Authenticate(b.ctx, b.key); err != nil {
			t.Errorf("the other keys stay: %v", err)
		}
		if err := b.Revoke(b.ctx, access.DefaultWorkspace, "key_none"); !croft.IsType(err, croft.NotFound) {
			t.Errorf("a key that is not there: %v", err)
		}
	})
}

// A key that is asked for and revoked at the same time is refused once Revoke has returned.
func TestRevokeWhileInUse(t *testing.T) {
	each(t, func(b *bench) {
		for range 20 {
			id, key := b.create(access.API, "")
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							_, _ = b.Authenticate(b.ctx, key)
						}
					}
				})
			}
			if err := b.Revoke(b.ctx, access.DefaultWorkspace, id); err != nil {
				t.Fatal(err)
			}
			b.refused(b.Store, key)
			close(stop)
			wg.Wait()
			b.refused(b.Store, key)
		}
	})
}

func TestArchivedWorkspace(t *testing.T) {
	each(t, func(b *bench) {
		err := b.db.Write(b.ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE workspaces SET archived_at = $1 WHERE id = $2`, tx.Now, access.DefaultWorkspace)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		b.refused(access.New(b.db, nil), b.key)
	})
}

func TestList(t *testing.T) {
	each(t, func(b *bench) {
		fleet, key := b.create(access.Fleet, "")
		env, _ := b.create(access.Environment, "env_1")
		if err := b.Revoke(b.ctx, access.DefaultWorkspace, env); err != nil {
			t.Fatal(err)
		}
		ids := func(kind access.Kind, environment string) (ids []string) {
			keys, err := b.List(b.ctx, access.DefaultWorkspace, kind, environment)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				ids = append(ids, k.ID)
				if k.CreatedAt == 0 || len(k.Hint) != 4 || (k.ID == env) != (k.RevokedAt != 0) {
					t.Errorf("%+v", k)
				}
				if k.ID == fleet && !strings.HasSuffix(key, k.Hint) {
					t.Errorf("the hint %q is not the key's end", k.Hint)
				}
			}
			return ids
		}
		if got := ids("", ""); len(got) != 3 || got[1] != fleet || got[2] != env {
			t.Errorf("all: %v", got)
		}
		if diff := cmp.Diff([]string{fleet}, ids(access.Fleet, "")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{env}, ids("", "env_1")); diff != "" {
			t.Error(diff)
		}
		if keys, err := b.List(b.ctx, "wrkspc_other", "", ""); len(keys) != 0 || err != nil {
			t.Errorf("another workspace's: %v, %v", keys, err)
		}
	})
}

func TestEnsureDefault(t *testing.T) {
	each(t, func(b *bench) {
		if created, key, err := b.EnsureDefault(b.ctx, ""); created || key != "" || err != nil {
			t.Errorf("the second start: %v, %v", created, err)
		}
		const mine = "a-key-of-my-own"
		b.refused(b.Store, mine)
		if created, key, err := b.EnsureDefault(b.ctx, mine); !created || key != mine || err != nil {
			t.Errorf("with a key of one's own: %v, %v", created, err)
		}
		if created, _, err := b.EnsureDefault(b.ctx, mine); created || err != nil {
			t.Errorf("and again: %v, %v", created, err)
		}
		for _, key := range []string{mine, b.key} {
			if p, err := b.Authenticate(b.ctx, key); err != nil || p.Kind != access.API {
				t.Errorf("%+v, %v", p, err)
			}
		}
		p, err := b.Authenticate(b.ctx, mine)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Revoke(b.ctx, access.DefaultWorkspace, p.KeyID); err != nil {
			t.Fatal(err)
		}
		_, fleet := b.create(access.Fleet, "")
		for name, key := range map[string]string{"a revoked key": mine, "a fleet key": fleet, "a short key": "secret7", "a key with a blank": "secret with blanks",
			"a key with a line end": "secret-secret\n", "a very long key": strings.Repeat("s", 513)} {
			if _, _, err := b.EnsureDefault(b.ctx, key); err == nil || strings.Contains(err.Error(), key) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestLocalKey(t *testing.T) {
	each(t, func(b *bench) {
		key, err := b.Local(access.DefaultWorkspace, access.Fleet, "")
		if err != nil {
			t.Fatal(err)
		}
		if p, err := b.Authenticate(b.ctx, key); err != nil || p.Kind != access.Fleet || p.Workspace != access.DefaultWorkspace {
			t.Errorf("%+v, %v", p, err)
		}
		b.refused(access.New(b.db, nil), key)
		if keys, err := b.List(b.ctx, access.DefaultWorkspace, access.Fleet, ""); err != nil || len(keys) != 0 {
			t.Errorf("a local key is in the table: %v, %v", keys, err)
		}
	})
}

func TestLastUse(t *testing.T) {
	each(t, func(b *bench) {
		lastUse := func() croft.Time {
			keys, err := b.List(b.ctx, access.DefaultWorkspace, access.API, "")
			if err != nil || len(keys) != 1 {
				t.Fatalf("%v, %v", keys, err)
			}
			return keys[0].LastUsedAt
		}
		use := func(s *access.Store) {
			if _, err := s.Authenticate(b.ctx, b.key); err != nil {
				t.Fatal(err)
			}
		}
		b.Start(b.ctx)
		if lastUse() != 0 {
			t.Error("it was not used yet")
		}
		use(b.Store)
		eventually(t, "the use is written", func() bool { return lastUse() != 0 })
		first := lastUse()
		for range 100 {
			use(b.Store)
		}
		b.Stop()
		if lastUse() != first {
			t.Error("a second use within the minute was written")
		}
		// What waits is written at the end, and never over a later use.
		other := access.New(b.db, nil)
		other.Start(b.ctx)
		time.Sleep(time.Millisecond)
		use(other)
		other.Stop()
		if lastUse() <= first {
			t.Error("the last use was not written at the end")
		}
	})
}

// A flood of wrong keys neither grows the memory without end nor shuts a good key out.
func TestFlood(t *testing.T) {
	each(t, func(b *bench) {
		for i := range 4200 {
			b.refused(b.Store, fmt.Sprintf("croft_api_%043d", i))
		}
		if _, err := b.Authenticate(b.ctx, b.key); err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never came: %s", what)
}
