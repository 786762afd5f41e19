/* One-line bodies for shim.h. */
#include "shim.h"

#include <unistd.h>

#include <rte_cycles.h>

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
