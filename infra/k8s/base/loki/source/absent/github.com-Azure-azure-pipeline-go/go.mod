module github.com/Azure/azure-pipeline-go

go 1.24.0
