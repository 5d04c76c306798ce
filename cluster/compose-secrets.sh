#!/bin/sh
# Makes what the containers of compose.yaml show each other, once: an authority and Kafka's certificate by it, the password of Kafka's user, the tokens of
# cluster/.env. Only you can enter the folder; the files in it are open, because containers read them as users of their own.
set -eu
cd "$(dirname "$0")"
umask 022
mkdir .secrets
chmod 700 .secrets
# A state that has deletions can't be opened with another tombstone key.
[ -e .env ] || printf 'RAY_AUTH_TOKEN=%s\nSTREAMREC_TOMBSTONE_KEY=%s\n' "$(openssl rand -hex 32)" "$(openssl rand -hex 32)" > .env
chmod 600 .env
cd .secrets
openssl rand -hex 32 > password
printf 'SCRAM-SHA-512=iterations=8192,password=%s\n' "$(cat password)" > user.properties

ec="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $ec -keyout ca.key -out ca.crt -days 3650 -subj "/CN=streamrec compose" 2> /dev/null
openssl req -new $ec -keyout kafka.key -out kafka.csr -subj "/CN=kafka" 2> /dev/null
echo "subjectAltName=DNS:streamrec-kafka-bootstrap,DNS:localhost,IP:127.0.0.1" > names
openssl x509 -req -in kafka.csr -CA ca.crt -CAkey ca.key -days 3650 -extfile names -out kafka.crt 2> /dev/null
cat kafka.key kafka.crt > kafka.pem
rm ca.key kafka.key kafka.csr kafka.crt names
