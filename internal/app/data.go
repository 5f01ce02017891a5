package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/datastore"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newData(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "data",
		Short: "Take what a data store holds into a file, and back",
	}
	c.AddCommand(newDataBackup(o), newDataRestore(o))
	return c
}

// completeStores completes the store, then a file.
func completeStores(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return environment.DataStores, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveDefault
}

func newDataBackup(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "backup STORE FILE",
		Short: "Write what a data store holds into a file",
		Long: `Write what STORE holds into FILE. The one store is nats: all streams of applications, with their
consumers, and so all buckets of keys and of objects. Each stream is as it was at one moment, a moment
of its own; nothing is stopped. Every message's checksum is looked at. Streams in memory are left out,
because NATS takes no snapshot of them, and are named.

FILE holds the messages as they are: it is made readable by its owner only. It is a tar with a list of
SHA-256 sums at its end, and is read again before it gets its name. Other environments can take it.`,
		Example: `  orrery data backup nats streams.tar
  orrery data backup nats --force /backup/streams.tar -o json`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeStores,
		RunE: func(c *cobra.Command, args []string) error {
			if err := environment.KnownDataStore(args[0]); err != nil {
				return err
			}
			e, err := environment.Existing(o.request(ui.Discard))
			if err != nil {
				return err
			}
			defer e.Close()
			b, err := e.BackupData(c.Context(), args[0], args[1], force)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, b)
			}
			if err := o.printStreams(b.Streams); err != nil {
				return err
			}
			_, err = fmt.Fprintf(o.out, "%s: %s of NATS %s, checked. It holds messages as they are: keep it safe.\n", b.File, ui.Size(b.Bytes), b.Version)
			return err
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace FILE when it is there")
	return c
}

func newDataRestore(o *options) *cobra.Command {
	var deleteData bool
	c := &cobra.Command{
		Use:   "restore STORE FILE",
		Short: "Give a data store what a backup holds",
		Long: `Give STORE what FILE holds, a backup by 'orrery data backup' of this environment or another. All
of FILE is checked first: one that was cut short or changed, that is of another store, or that was
taken from a newer version of it, is refused, and nothing is touched.

Streams of the same names must not be there. With --delete-data they are deleted, with all that they
hold and what their consumers know, and the error without it says which and how much that is. Streams
that FILE does not have are left alone. Numbers of messages, and where consumers are, are as they were.
A stream with more replicas than there are servers gets as many as there are.`,
		Example: `  orrery data restore nats streams.tar
  orrery data restore nats streams.tar --delete-data`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeStores,
		RunE: func(c *cobra.Command, args []string) error {
			if err := environment.KnownDataStore(args[0]); err != nil {
				return err
			}
			request := o.change("data restore", ui.Discard)
			request.DeleteData = deleteData
			e, err := environment.Existing(request)
			if err != nil {
				return err
			}
			defer e.Close()
			b, err := e.RestoreData(c.Context(), args[0], args[1], func(datastore.Stream) {})
			if o.json() && err == nil {
				return printJSON(o.out, b)
			}
			if !o.json() { // also when it broke off: these are there
				err = errors.Join(err, o.printStreams(b.Streams))
			}
			return err
		},
	}
	c.Flags().BoolVar(&deleteData, "delete-data", false, "yes, give up what streams of the same names hold")
	return c
}

func (o *options) printStreams(streams []datastore.Stream) error {
	rows := [][]string{}
	for _, s := range streams {
		note := s.Note
		if s.LeftOut {
			note = strings.TrimSuffix("left out: "+note, ": ")
		}
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Messages), ui.Size(int64(s.Bytes)), fmt.Sprint(s.Consumers), note})
	}
	return ui.Table(o.out, []string{"STREAM", "MESSAGES", "SIZE", "CONSUMERS", "NOTE"}, rows)
}
