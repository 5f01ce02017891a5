# The recipes live in infra/justfile, where the seed has them. This file is here so that
# `just` finds them from anywhere in the repository. A recipe's name cannot hold a colon,
# hence `just kube create` where `task kube:create` (Taskfile.yml) has the seed's own name.

import 'infra/justfile'

[private]
default:
    @just --list --list-submodules
