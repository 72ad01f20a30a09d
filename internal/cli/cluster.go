package cli

import "github.com/spf13/cobra"

// clusterCommands are the commands that look at a cluster and change it.
func (a *App) clusterCommands() []*cobra.Command { return nil }
