package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// call is one of those that util/git/client.go of Argo CD makes, in a working tree that it has made.
func call(ctx context.Context, dir string, args []string, out io.Writer) error {
	unknown := fmt.Errorf("%s: %w", strings.Join(args, " "), errUnknown)
	if len(args) < 2 {
		return unknown
	}
	repo, err := git.PlainOpen(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	verb, args := args[0], args[1:]
	switch is := func(want ...string) bool { return slices.Equal(args, want) }; {
	case verb == "fetch" && len(args) > 1 && args[0] == "origin":
		revision := args[1]
		if revision == "--tags" {
			return fetch(ctx, repo)
		}
		if err := fetch(ctx, repo); err != nil {
			return err
		}
		_, err := commit(repo, revision)
		return err
	case verb == "cat-file" && len(args) == 2 && args[0] == "-t":
		if _, err := commit(repo, args[1]); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, "commit")
		return err
	case verb == "checkout" && len(args) == 2 && args[0] == "--force":
		return checkout(repo, dir, args[1])
	case verb == "clean" && is("-ffdx"):
		return nil // a checkout has left nothing else
	case verb == "rev-parse" && is("HEAD"):
		head, err := repo.Head()
		if err == nil {
			_, err = fmt.Fprintln(out, head.Hash())
		}
		return err
	}
	return unknown
}

func fetch(ctx context.Context, repo *git.Repository) error {
	options := git.FetchOptions{Tags: git.NoTags, Force: true, Prune: true, RefSpecs: []config.RefSpec{"+refs/heads/*:refs/remotes/origin/*"}}
	if file := os.Getenv("GIT_SSL_CAINFO"); file != "" {
		ca, err := os.ReadFile(file) //nolint:gosec // Argo CD names it
		if err != nil {
			return err
		}
		options.CABundle = ca
	}
	if err := repo.FetchContext(ctx, &options); err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate) {
		return fmt.Errorf("fetch: %w", err)
	}
	return nil
}

// commit is one that is here with all that it consists of.
func commit(repo *git.Repository, revision string) (*object.Commit, error) {
	if !plumbing.IsHash(revision) {
		return nil, fmt.Errorf("%q is no hash of a commit: %w", revision, errUnknown)
	}
	c, err := repo.CommitObject(plumbing.NewHash(revision))
	if err != nil {
		return nil, fmt.Errorf("commit %s of %s: %w", revision, branch, err)
	}
	return c, nil
}

// checkout makes the folder what the commit has, and nothing else.
func checkout(repo *git.Repository, dir, revision string) error {
	c, err := commit(repo, revision)
	if err != nil {
		return err
	}
	tree, err := c.Tree()
	if err != nil {
		return fmt.Errorf("commit %s: %w", revision, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := empty(dir, root); err != nil {
		return err
	}
	if err := tree.Files().ForEach(func(f *object.File) error { return write(root, f) }); err != nil {
		return fmt.Errorf("commit %s: %w", revision, err)
	}
	// Last: what HEAD says is there.
	return repo.Storer.SetReference(plumbing.NewHashReference(plumbing.HEAD, c.Hash))
}

func empty(dir string, root *os.Root) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == git.GitDirName {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func write(root *os.Root, f *object.File) error {
	if f.Mode != filemode.Regular || strings.EqualFold(strings.Split(f.Name, "/")[0], git.GitDirName) {
		return fmt.Errorf("%s is no plain file", f.Name)
	}
	content, err := f.Reader()
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	defer content.Close()
	if err := root.MkdirAll(path.Dir(f.Name), 0o755); err != nil {
		return err
	}
	to, err := root.OpenFile(f.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, content)
	return errors.Join(err, to.Close())
}
