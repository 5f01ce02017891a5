module github.com/IBM/ibm-cos-sdk-go

go 1.24.0
