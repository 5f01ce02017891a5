#!/usr/bin/bash
# Gives the role admin its password, and takes from the role that ScyllaDB comes with, whose password is
# its name, the right to log in. Nothing is left to do where that was done.
set -euo pipefail
umask 077
host=scylladb-client.scylladb.svc
password=$(</etc/scylladb/admin/password)
case $password in
*[!A-Za-z0-9_.+/=~-]*) echo "the password of Secret scylladb/scylladb has a character other than A-Z a-z 0-9 _ . + / = ~ -" >&2; exit 1 ;;
esac
as() { # ROLE PASSWORD: CQL on standard input
  printf '[authentication]\nusername = %s\npassword = %s\n' "$1" "$2" >"$HOME/cqlshrc"
  cqlsh --cqlshrc "$HOME/cqlshrc" --request-timeout 30 "$host" 9042
}
for attempt in {1..180}; do
  if as admin "$password" <<<"ALTER ROLE cassandra WITH SUPERUSER = false AND LOGIN = false;"; then
    echo "role admin logs in, and role cassandra does not any more"
    exit 0
  fi
  as cassandra cassandra <<<"CREATE ROLE IF NOT EXISTS admin WITH SUPERUSER = true AND LOGIN = true AND PASSWORD = '$password';" || true
  echo "attempt $attempt: not yet" >&2
  sleep 5
done
exit 1
