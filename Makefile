# The targets are short names for what the scripts do; nothing else is needed to build.
.PHONY: build test quick lint soak bench

build:
	CGO_ENABLED=0 go build -trimpath -o bin/croft ./cmd/croft

test:
	scripts/test

quick:
	scripts/test -quick

lint:
	scripts/setup lint
	.cache/bin/golangci-lint run ./...

# The long counts whole: 100 kills on each database and the rest. About half an hour.
soak:
	scripts/soak

bench: build
	bin/croft bench
