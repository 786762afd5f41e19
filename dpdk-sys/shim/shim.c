/* One-line bodies for shim.h. */
#include "shim.h"

#include <unistd.h>

#include <errno.h>
#include <limits.h>
#include <string.h>

#include <linux/close_range.h>
#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <rte_byteorder.h>
#include <rte_cycles.h>
#include <rte_thash.h>

uint16_t sluice_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t sluice_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

int sluice_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void sluice_mbuf_free_bulk(struct rte_mbuf **mbufs, unsigned int count)
{
	rte_pktmbuf_free_bulk(mbufs, count);
}

int sluice_mbuf_linearize(struct rte_mbuf *mbuf)
{
	return rte_pktmbuf_linearize(mbuf);
}

uint64_t sluice_tsc(void)
{
	return rte_rdtsc();
}

int sluice_errno(void)
{
	return rte_errno;
}

unsigned int sluice_lcore_id(void)
{
	return rte_lcore_id();
}

int sluice_link_up(uint16_t port, uint32_t *mbps)
{
	struct rte_eth_link link;

	*mbps = 0;
	if (rte_eth_link_get_nowait(port, &link) != 0)
		return -1;
	if (link.link_speed != UINT32_MAX)
		*mbps = link.link_speed;
	return link.link_status == RTE_ETH_LINK_UP;
}

static const uint64_t tcp_ports = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t udp_ports = RTE_ETH_RSS_NONFRAG_IPV4_UDP;
static const uint64_t addresses = RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_OTHER;
static const uint64_t tcp_ports_six = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint64_t udp_ports_six = RTE_ETH_RSS_NONFRAG_IPV6_UDP;
static const uint64_t addresses_six = RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_NONFRAG_IPV6_OTHER;

int sluice_configure(uint16_t port, uint16_t queues, uint16_t mtu, int vlans, int spread, uint8_t *key, uint8_t key_len)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf;
	int result = rte_eth_dev_info_get(port, &info);

	if (result != 0)
		return result;
	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu;
	if (vlans)
		conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_VLAN_FILTER;
	if (spread && info.flow_type_rss_offloads != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads &
			(tcp_ports | udp_ports | addresses | RTE_ETH_RSS_FRAG_IPV4 |
			 tcp_ports_six | udp_ports_six | addresses_six | RTE_ETH_RSS_FRAG_IPV6);
		if (key_len > 0) {
			conf.rx_adv_conf.rss_conf.rss_key = key;
			conf.rx_adv_conf.rss_conf.rss_key_len = key_len;
		}
	}
	return rte_eth_dev_configure(port, queues, queues, &conf);
}

int sluice_rss_sizes(uint16_t port, uint16_t *table, uint8_t *key)
{
	struct rte_eth_dev_info info;
	int result = rte_eth_dev_info_get(port, &info);

	*table = result == 0 ? info.reta_size : 0;
	*key = result == 0 ? info.hash_key_size : 0;
	return result;
}

static int fields_of(uint64_t hashed, uint64_t ports, uint64_t without)
{
	if (hashed & ports)
		return SLUICE_FIELDS_PORTS;
	return hashed & without ? SLUICE_FIELDS_ADDRESSES : SLUICE_FIELDS_NOTHING;
}

int sluice_rss_get(uint16_t port, uint8_t *key, uint8_t key_len, int fields[4])
{
	struct rte_eth_rss_conf conf;
	int result;

	memset(&conf, 0, sizeof(conf));
	conf.rss_key = key;
	conf.rss_key_len = key_len;
	result = rte_eth_dev_rss_hash_conf_get(port, &conf);
	fields[0] = fields_of(conf.rss_hf, tcp_ports, addresses);
	fields[1] = fields_of(conf.rss_hf, udp_ports, addresses);
	fields[2] = fields_of(conf.rss_hf, tcp_ports_six, addresses_six);
	fields[3] = fields_of(conf.rss_hf, udp_ports_six, addresses_six);
	return result;
}

#define GROUPS (2048 / RTE_ETH_RETA_GROUP_SIZE)

int sluice_table_set(uint16_t port, uint16_t entries, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[GROUPS];

	if (entries > 2048)
		return -E2BIG;
	memset(table, 0, sizeof(table));
	for (uint16_t at = 0; at < entries; at++) {
		table[at / RTE_ETH_RETA_GROUP_SIZE].mask |= 1ULL << at % RTE_ETH_RETA_GROUP_SIZE;
		table[at / RTE_ETH_RETA_GROUP_SIZE].reta[at % RTE_ETH_RETA_GROUP_SIZE] = at % queues;
	}
	return rte_eth_dev_rss_reta_update(port, table, entries);
}

int sluice_table_get(uint16_t port, uint16_t entries, uint16_t *queues)
{
	struct rte_eth_rss_reta_entry64 table[GROUPS];
	int result;

	if (entries > 2048)
		return -E2BIG;
	memset(table, 0, sizeof(table));
	for (uint16_t at = 0; at < entries; at++)
		table[at / RTE_ETH_RETA_GROUP_SIZE].mask |= 1ULL << at % RTE_ETH_RETA_GROUP_SIZE;
	result = rte_eth_dev_rss_reta_query(port, table, entries);
	for (uint16_t at = 0; at < entries; at++)
		queues[at] = table[at / RTE_ETH_RETA_GROUP_SIZE].reta[at % RTE_ETH_RETA_GROUP_SIZE];
	return result;
}

uint32_t sluice_softrss(uint32_t *tuple, uint32_t words, const uint8_t *key)
{
	return rte_softrss(tuple, words, key);
}

int sluice_rule_add(uint16_t port, const uint8_t *address, size_t address_len, uint8_t protocol,
		    uint16_t bits, uint16_t mask, uint16_t queue, char *words, size_t room)
{
	struct rte_flow_attr attr = { .ingress = 1 };
	struct rte_flow_item_ipv4 four, four_mask;
	struct rte_flow_item_ipv6 six, six_mask;
	int is_six = address_len == sizeof(six.hdr.dst_addr);
	struct rte_flow_item_udp udp = { .hdr.dst_port = rte_cpu_to_be_16(bits) };
	struct rte_flow_item_udp udp_mask = { .hdr.dst_port = rte_cpu_to_be_16(mask) };
	struct rte_flow_item_tcp tcp = { .hdr.dst_port = rte_cpu_to_be_16(bits) };
	struct rte_flow_item_tcp tcp_mask = { .hdr.dst_port = rte_cpu_to_be_16(mask) };
	int is_udp = protocol == IPPROTO_UDP;
	struct rte_flow_item pattern[] = {
		{ .type = RTE_FLOW_ITEM_TYPE_ETH },
		{ .type = is_six ? RTE_FLOW_ITEM_TYPE_IPV6 : RTE_FLOW_ITEM_TYPE_IPV4,
		  .spec = is_six ? (const void *)&six : (const void *)&four,
		  .mask = is_six ? (const void *)&six_mask : (const void *)&four_mask },
		{ .type = is_udp ? RTE_FLOW_ITEM_TYPE_UDP : RTE_FLOW_ITEM_TYPE_TCP,
		  .spec = is_udp ? (const void *)&udp : (const void *)&tcp,
		  .mask = is_udp ? (const void *)&udp_mask : (const void *)&tcp_mask },
		{ .type = RTE_FLOW_ITEM_TYPE_END },
	};
	struct rte_flow_action_queue to = { .index = queue };
	struct rte_flow_action actions[] = {
		{ .type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &to },
		{ .type = RTE_FLOW_ACTION_TYPE_END },
	};
	struct rte_flow_error error;
	int result;

	memset(&four, 0, sizeof(four));
	memset(&four_mask, 0, sizeof(four_mask));
	memset(&six, 0, sizeof(six));
	memset(&six_mask, 0, sizeof(six_mask));
	if (is_six) {
		memcpy(&six.hdr.dst_addr, address, address_len);
		memset(&six_mask.hdr.dst_addr, 0xff, address_len);
	} else {
		memcpy(&four.hdr.dst_addr, address, sizeof(four.hdr.dst_addr));
		four_mask.hdr.dst_addr = RTE_BE32(0xffffffff);
	}
	memset(&error, 0, sizeof(error));
	rte_errno = 0;
	result = rte_flow_validate(port, &attr, pattern, actions, &error);
	if (result == 0 && rte_flow_create(port, &attr, pattern, actions, &error) == NULL)
		result = rte_errno != 0 ? -rte_errno : -EINVAL;
	snprintf(words, room, "%s", result != 0 && error.message != NULL ? error.message : "");
	return result;
}

int sluice_rules_flush(uint16_t port)
{
	struct rte_flow_error error;

	return rte_flow_flush(port, &error);
}

int sluice_log_to(int fd)
{
	FILE *stream;
	int copy = dup(fd);

	if (copy < 0)
		return -1;
	stream = fdopen(copy, "w");
	if (stream == NULL) {
		close(copy);
		return -1;
	}
	setvbuf(stream, NULL, _IONBF, 0);
	return rte_openlog_stream(stream);
}

unsigned int sluice_packet_socket(int fd)
{
	struct sockaddr_ll address;
	socklen_t len = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &len) != 0 || len < offsetof(struct sockaddr_ll, sll_hatype))
		return 0;
	return address.sll_family == AF_PACKET ? (unsigned int)address.sll_ifindex : 0;
}

unsigned int sluice_packet_drops(int fd)
{
	/* Of either version: what is wanted stands in the same place. */
	struct tpacket_stats_v3 stats;
	socklen_t len = sizeof(stats);

	memset(&stats, 0, sizeof(stats));
	if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) != 0)
		return 0;
	return stats.tp_drops;
}

int sluice_close_on_exec(void)
{
	return (int)syscall(SYS_close_range, STDERR_FILENO + 1, UINT_MAX, CLOSE_RANGE_CLOEXEC);
}
