package cli

import (
	"github.com/spf13/cobra"

	"github.com/hathi-ha/hathi/internal/term"
)

func (a *App) historyCommand() *cobra.Command {
	find, form := finder{app: a}, formatFlags{}
	c := &cobra.Command{Use: "history [CLUSTER]", Args: cobra.ArbitraryArgs, Long: `hathi history [-f FORMAT | --json]

Show the fail-overs and switchovers so far: each timeline that ended, where (in bytes of WAL), why,
when, and who led next.

Example:
  hathi history --dir /tmp/demo`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := form.parse(c)
			if err != nil {
				return err
			}
			ctx, cancel := find.bounded(c.Context())
			defer cancel()
			t, _, err := find.open(ctx, args, false)
			if err != nil {
				return err
			}
			defer t.Close()
			v, err := t.view(ctx)
			if err != nil {
				return err
			}
			table := term.Table{Columns: []term.Column{{Name: "TL", Align: term.Right}, {Name: "LSN", Align: term.Right}, {Name: "Reason"},
				{Name: "Timestamp"}, {Name: "New Leader"}}}
			for _, l := range v.History {
				table.Add(l.Timeline, uint64(l.LSN), printable(l.Reason), printable(l.Timestamp), printable(l.NewLeader))
			}
			return table.Write(a.Stdout, f)
		}}
	find.bind(c, readWithin)
	form.bind(c)
	return c
}
