#include <node_config.h>

unsigned int gateway(void) { return IPV4_GATEWAY; }
unsigned long long cookie(void) { return HOST_NETNS_COOKIE; }
