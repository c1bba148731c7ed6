wss://ws-api-spot.kucoin.com/?token=TOKEN <-> 1767225600.25
1767225600.400000: {"id":"hQvf8jkno","type":"welcome"}
wss://ws-api-spot.kucoin.com/?token=TOKEN <- 1767225600.500000: {"id":"1","type":"subscribe","topic":"/market/match:BTC-USDT,ETH-BTC,BCHSV-USDT","response":true,"privateChannel":false}
wss://ws-api-spot.kucoin.com/?token=TOKEN <- 1767225600.600000: {"id":"2","type":"subscribe","topic":"/spotMarket/level1:BTC-USDT,ETH-BTC","response":true,"privateChannel":false}
1767225600.700000: {"id":"2","type":"ack"}
1767225600.799999: {"id":"1","type":"ack"}
1767225600.899999: {"topic":"/spotMarket/level1:BTC-USDT","type":"message","subject":"level1","data":{"asks":["88000.2","1.25"],"bids":["88000.1","0.5"],"timestamp":1767225600900}}
1767225600.999999: {"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{"makerOrderId":"671b5007389355000701b1d3","price":"88000.2","sequence":"11067996711960577","side":"buy","size":"0.00027625","symbol":"BTC-USDT","takerOrderId":"671b50161777ff00074c168d","time":"1767225601500000000","tradeId":"11067996711960577","type":"match"}}
1767225601.099999: {"topic":"/spotMarket/level1:BTC-USDT","type":"message","subject":"level1","data":{"asks":["88000.3","0.75"],"bids":["88000.1","0.5"],"timestamp":1767225601501}}
1767225601.199999: {"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{"makerOrderId":"671b5007389355000701b1d3","price":"88000.1","sequence":"11067996711960580","side":"sell","size":"0.1","symbol":"BTC-USDT","takerOrderId":"671b50161777ff00074c168d","time":"1767225601700000000","tradeId":"11067996711960580","type":"match"}}
1767225601.299999: {"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{"makerOrderId":"671b5007389355000701b1d3","price":"88000","sequence":"11067996711960583","side":"sell","size":"0.0001246","symbol":"BTC-USDT","takerOrderId":"671b50161777ff00074c168d","time":"1767225601700000000","tradeId":"11067996711960583","type":"match"}}
1767225601.399999: {"data":{"makerOrderId":"671b5007389355000701b1d3","price":"16.21","sequence":"9067996711960100","side":"buy","size":"12.5","symbol":"BCHSV-USDT","takerOrderId":"671b50161777ff00074c168d","time":"1767225601800000000","tradeId":"9067996711960100","type":"match"},"subject":"trade.l3match","topic":"/market/match:BCHSV-USDT","type":"message"}
1767225601.499999: {"data":{"sequence":"1613277183873","bestAsk":"16.22","size":"0.08000012","bestBidSize":"0.68148185","price":"16.21","time":1767225600000,"bestAskSize":"4.51280965","bestBid":"16.2"},"subject":"trade.ticker","topic":"/market/ticker:BCHSV-USDT","type":"message"}
1767225601.599999: {"topic":"/market/ticker:BTC-USDT","type":"message","subject":"trade.ticker","data":{"sequence":"14609309753","bestAsk":"88000.3","size":"0.1","bestBidSize":"0.5","price":"88000","time":1767225600000,"bestAskSize":"0.75","bestBid":"88000.1"}}
1767225601.699999: {"topic":"/market/candles:BTC-USDT_1min","type":"message","subject":"trade.candles.update","data":{"symbol":"BTC-USDT","candles":["1767225600","88000.2","88000","88000.2","88000","0.10040085","8835.29"],"time":1767225600000000000}}
1767225601.799999: {"topic":"/market/level2:BTC-USDT","type":"message","subject":"trade.l2update","data":{"changes":{"asks":[["88000.2","0","14701689783"]],"bids":[]},"sequenceEnd":14701689783,"sequenceStart":14701689783,"symbol":"BTC-USDT","time":1767225601701}}
wss://ws-api-spot.kucoin.com/?token=TOKEN <- 1767225601.899998: {"id":"3","type":"ping"}
1767225601.999998: {"id":"3","type":"pong","timestamp":1767225600000000}
wss://ws-api-spot.kucoin.com/?token=TOKEN <- 1767225602.099998: {"id":"4","type":"subscribe","topic":"/market/match:NO-SUCH","response":true,"privateChannel":false}
1767225602.199998: {"id":"4","type":"error","code":404,"data":"topic /market/match:NO-SUCH is not found"}
1767225602.299998: {"topic":"/spotMarket/level1:ETH-BTC","type":"message","subject":"level1","data":{"asks":["0.03392","3"],"bids":["0.03391","12.5"],"timestamp":1767225601990}}
1767225602.399998: {"topic":"/market/match:ETH-BTC","type":"message","subject":"trade.l3match","data":{"makerOrderId":"671b5007389355000701b1d3","price":"0.03392","sequence":"7067996711960001","side":"buy","size":"3","symbol":"ETH-BTC","takerOrderId":"671b50161777ff00074c168d","time":"1767225602000000000","tradeId":"7067996711960001","type":"match"}}
