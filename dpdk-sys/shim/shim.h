/* What Rust cannot reach by itself in DPDK: static inlines, thread-local
 * variables, and layouts that move between releases.
 *
 * Every function is one call per burst or per configuration step, never one
 * per packet. bindgen reads this header; shim.c implements it. */
#ifndef SLUICE_DPDK_SHIM_H
#define SLUICE_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Where the fields of an mbuf are. DPDK 24.11 moved them into anonymous
 * unions, so Rust must not name them; their offsets are the ABI. */
enum sluice_mbuf_layout {
	SLUICE_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SLUICE_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SLUICE_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	SLUICE_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SLUICE_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SLUICE_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SLUICE_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SLUICE_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SLUICE_MBUF_SIZE = sizeof(struct rte_mbuf),
	SLUICE_MBUF_HEADROOM = RTE_PKTMBUF_HEADROOM,
};

/* Limits that have no linkable symbol. */
enum sluice_limits {
	SLUICE_MAX_LCORE = RTE_MAX_LCORE,
	SLUICE_MAX_ETHPORTS = RTE_MAX_ETHPORTS,
};

uint16_t sluice_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t sluice_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
/* 0 when all `count` mbufs were taken from the pool, negative when none was. */
int sluice_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void sluice_mbuf_free_bulk(struct rte_mbuf **mbufs, unsigned int count);

/* Copies all segments into the first and frees the others; negative, and nothing done, when they do not fit. */
int sluice_mbuf_linearize(struct rte_mbuf *mbuf);

uint64_t sluice_tsc(void);
int sluice_errno(void);
unsigned int sluice_lcore_id(void);

/* What a device hashes of one protocol. */
enum sluice_fields {
	SLUICE_FIELDS_NOTHING,
	SLUICE_FIELDS_ADDRESSES,
	SLUICE_FIELDS_PORTS,
};

/* Configure `queues` queue pairs. With a key of `key_len` bytes packets are to be spread by their
 * addresses and ports, as far as the device can; with key_len 0 by the device's own key; without
 * `spread` not at all. 0 or a negative errno. */
int sluice_configure(uint16_t port, uint16_t queues, uint16_t mtu, int vlans, int spread, uint8_t *key, uint8_t key_len);
/* The entries of the indirection table, and the bytes of the key; 0 when there is none. */
int sluice_rss_sizes(uint16_t port, uint16_t *table, uint8_t *key);
/* The key in use, and what is hashed of TCP and UDP over IPv4, then over IPv6 (enum sluice_fields). */
int sluice_rss_get(uint16_t port, uint8_t *key, uint8_t key_len, int fields[4]);
/* Spread the table's entries over the queues in turn; read the table. 0 or a negative errno. */
int sluice_table_set(uint16_t port, uint16_t entries, uint16_t queues);
int sluice_table_get(uint16_t port, uint16_t entries, uint16_t *queues);
/* DPDK's own Toeplitz hash of `words` words in host order. */
uint32_t sluice_softrss(uint32_t *tuple, uint32_t words, const uint8_t *key);

/* Lets rte_thash choose the last 16 bits of a tuple (network order) so that the low `bits` of its hash
 * are `desired`. It changes `key` for that. EAL must run. 0 or a negative errno. */
int sluice_thash_adjust(uint8_t *key, uint8_t key_len, uint32_t bits, uint8_t *tuple, uint32_t tuple_len,
			uint32_t desired);

/* Packets to `address` (4 or 16 bytes in network order) whose destination port has these low bits go to `queue`:
 * checked, then made. 0, or a negative errno with the driver's words. The rule is the device's
 * until it is closed or sluice_rules_flush is called. */
int sluice_rule_add(uint16_t port, const uint8_t *address, size_t address_len, uint8_t protocol,
		    uint16_t bits, uint16_t mask, uint16_t queue, char *words, size_t room);
int sluice_rules_flush(uint16_t port);

/* 1 up, 0 down, -1 unknown; `mbps` receives the speed, 0 when unknown. */
int sluice_link_up(uint16_t port, uint32_t *mbps);
/* The number of the interface that a packet socket reads; 0 when `fd` is none. */
unsigned int sluice_packet_socket(int fd);
/* Packets that a packet socket lost since that was last asked, by anybody. */
unsigned int sluice_packet_drops(int fd);
/* Lets no descriptor above standard error be inherited by a program that is started. 0 or -1. */
int sluice_close_on_exec(void);
/* Send EAL's log to `fd`, which stays the caller's to close. 0 or -1. */
int sluice_log_to(int fd);

#endif
