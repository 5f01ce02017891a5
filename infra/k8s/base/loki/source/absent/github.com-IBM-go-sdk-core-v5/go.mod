module github.com/IBM/go-sdk-core/v5

go 1.24.0
