package main

func render(repo string) error { return nil }
