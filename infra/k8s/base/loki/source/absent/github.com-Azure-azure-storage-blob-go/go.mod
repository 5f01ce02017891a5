module github.com/Azure/azure-storage-blob-go

go 1.24.0
