module github.com/apache/cassandra-gocql-driver/v2

go 1.24.0
