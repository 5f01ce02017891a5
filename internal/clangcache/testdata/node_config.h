/* 10.89.0.11, which differs from node to node */
#define HOST_NETNS_COOKIE 39785
#define IPV4_GATEWAY 0xd200f40a
#define MTU 1500

// JSON_OUTPUT: eyJ9
