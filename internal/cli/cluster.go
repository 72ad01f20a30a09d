package cli

import "github.com/spf13/cobra"

// clusterCommands are the commands that look at a cluster and change it.
func (a *App) clusterCommands() []*cobra.Command {
	return []*cobra.Command{a.listCommand(), a.topologyCommand(), a.switchoverCommand(), a.failoverCommand(), a.restartCommand(), a.reloadCommand(),
		a.reinitCommand(), a.flushCommand(), a.pauseCommand(), a.resumeCommand(), a.showConfigCommand(), a.editConfigCommand(), a.historyCommand(),
		a.dsnCommand(), a.queryCommand(), a.whyCommand()}
}
