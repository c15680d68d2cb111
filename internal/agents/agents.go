// Package agents keeps what people define before a session: agents with their versions,
// and environments. It owns their rules, defaults and SQL (tables agents, agent_versions,
// environments), and the reading of every part of a body that describes an agent, also
// where a session's body holds one (Ref, ParseTools, ParseMCPServers). It imports the
// language, wire and the store. The API calls a Store's methods for its routes; the log of
// sessions calls Resolve and Environment inside its own transactions.
//
// An agent is kept as its latest version, with every version beside it; a change that
// changes nothing makes none. Bodies are stored with all defaults filled in, as the API
// answers them, so that a reader of a stored agent needs no rules. What this version of
// Croft accepts without enforcing is told in config.croft.unenforced of an environment,
// when it is read and not when it is written.
package agents

import (
	"fmt"
	"strconv"
	"strings"

	"croft"
	"croft/internal/store"
	"croft/internal/wire"
)

// Models tells whether a model may be used.
type Models interface {
	// Check fails, in words for the client, when no model has that id. It is quick: a
	// transaction may wait for it.
	Check(id string) error
}

// Store keeps agents and environments. It is safe for concurrent use.
type Store struct {
	db     *store.DB
	models Models
}

// New makes a Store. With nil models, every model's id is accepted.
func New(db *store.DB, models Models) *Store { return &Store{db: db, models: models} }

// ListQuery is one page of a list, newest first. Zero values filter nothing.
type ListQuery struct {
	CreatedGte, CreatedLte croft.Time // agents alone
	IncludeArchived        bool
	Limit                  int    // 1 to 100; 0: 20
	Page                   string // next_page of an earlier answer
}

// List is a page of a list; NextPage is nil on the last one.
type List[T any] struct {
	Data     []T     `json:"data"`
	NextPage *string `json:"next_page"`
}

// place is where a page of a list ends.
type place struct {
	At      croft.Time `json:"a,omitempty"`
	ID      string     `json:"i,omitempty"`
	Version int64      `json:"v,omitempty"`
}

const newestFirst = "desc"

func (q *ListQuery) limit() int {
	switch {
	case q.Limit <= 0:
		return 20
	case q.Limit > 100:
		return 100
	}
	return q.Limit
}

// pageOf reads a page of the workspace's rows of table, newest first. scan reads one row of
// columns and returns its place.
func pageOf[T any](tx *store.Tx, table, columns, workspace string, q ListQuery, scan func(store.Row) (T, place, error)) (*List[T], error) {
	conds, args := []string{"workspace_id = $1"}, []any{workspace}
	add := func(cond string, arg any) {
		args = append(args, arg)
		conds = append(conds, strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(args))))
	}
	if !q.IncludeArchived {
		conds = append(conds, "archived_at = 0")
	}
	if q.CreatedGte != 0 {
		add("created_at >= ?", q.CreatedGte)
	}
	if q.CreatedLte != 0 {
		add("created_at <= ?", q.CreatedLte)
	}
	if q.Page != "" {
		var p place
		if err := wire.ReadCursor(q.Page, table, newestFirst, &p); err != nil {
			return nil, err
		}
		if (q.CreatedGte != 0 && p.At < q.CreatedGte) || (q.CreatedLte != 0 && p.At > q.CreatedLte) {
			return nil, croft.Invalid("page", "the cursor's place lies outside the created_at filter")
		}
		args = append(args, p.At, p.ID)
		at, id := "$"+strconv.Itoa(len(args)-1), "$"+strconv.Itoa(len(args))
		conds = append(conds, "(created_at < "+at+" OR (created_at = "+at+" AND id < "+id+"))")
	}
	rows, err := tx.Query(`SELECT `+columns+` FROM `+table+` WHERE `+strings.Join(conds, " AND ")+
		` ORDER BY created_at DESC, id DESC LIMIT `+strconv.Itoa(q.limit()+1), args...)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", table, err)
	}
	return page(rows, q.limit(), table, scan)
}

// page reads up to limit rows, and one more to see whether there is a next page.
func page[T any](rows *store.Rows, limit int, list string, scan func(store.Row) (T, place, error)) (*List[T], error) {
	defer rows.Close()
	out := &List[T]{Data: []T{}}
	var last place
	for rows.Next() {
		if len(out.Data) == limit {
			next := wire.WriteCursor(list, newestFirst, last)
			out.NextPage = &next
			break
		}
		v, p, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("reading a row of %s: %w", list, err)
		}
		out.Data, last = append(out.Data, v), p
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing %s: %w", list, err)
	}
	return out, nil
}
