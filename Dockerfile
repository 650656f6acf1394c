# The image of SikkerGuard. It builds with BuildKit and with the classic builder. For another architecture, run
#   docker buildx build --platform linux/arm64 --tag sikkerguard --load .
# The program is cross-compiled. Only the packages of the second stage are unpacked on that architecture (binfmt).
ARG GO_IMAGE=golang:1.26-trixie
ARG BASE_IMAGE=debian:trixie-slim

# The classic builder sets no BUILDPLATFORM. The value linux means the architecture of this machine.
FROM --platform=${BUILDPLATFORM:-linux} ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
COPY pkg pkg
ARG VERSION=0.1.0
ARG COMMIT=unknown
# Both are empty under the classic builder, and Go then builds for this machine.
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
	-ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o /sikkerguard ./cmd/sikkerguard
# The licences of all linked libraries require their texts in the image.
COPY LICENSE ./
COPY deploy/tools/go.mod deploy/tools/go.sum deploy/tools/
COPY deploy/tools/licenses deploy/tools/licenses
RUN go run -C deploy/tools ./licenses ../.. >/third-party && cat LICENSE /third-party >/copyright

FROM ${BASE_IMAGE}
# nftables shows the active table to the operator. iptables and ipset are for hosts without nf_tables.
RUN apt-get update \
	&& apt-get install -y --no-install-recommends ca-certificates ipset iptables nftables \
	&& rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
	&& mkdir -m 0700 /var/lib/sikkerguard
COPY --from=build /sikkerguard /usr/local/bin/sikkerguard
COPY --from=build /copyright /usr/share/doc/sikkerguard/copyright
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="SikkerGuard" \
	org.opencontainers.image.description="Firewall agent: blocks the addresses that SikkerAPI knows to be malicious" \
	org.opencontainers.image.url="https://sikkerapi.com" \
	org.opencontainers.image.source="https://github.com/sikkerapi/sikkerguard" \
	org.opencontainers.image.licenses="Apache-2.0" \
	org.opencontainers.image.version="$VERSION" \
	org.opencontainers.image.revision="$COMMIT"
# A new volume takes its mode from here. Without a named volume, saved list and reports end with the container.
VOLUME /var/lib/sikkerguard
# Root, because cap_add of Docker gives capabilities to no other user. compose.yaml drops all capabilities except two.
ENTRYPOINT ["/usr/local/bin/sikkerguard"]
STOPSIGNAL SIGTERM
# The agent has a minute to get its first list. The check takes 5 s at most.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["/usr/local/bin/sikkerguard", "healthcheck"]
